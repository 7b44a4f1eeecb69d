//! Which version of the program this is.

/// The version of `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, as git describes it; `None` where that was not known.
pub const COMMIT: Option<&str> = {
    const TEXT: &str = env!("MIRRORGATE_BUILT_FROM");
    if TEXT.is_empty() { None } else { Some(TEXT) }
};

/// Both, for people: `0.2.0 (v0.2.0-3-g1a2b3c4)`.
pub fn full() -> String {
    match COMMIT {
        Some(commit) => format!("{VERSION} ({commit})"),
        None => VERSION.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_stands_behind_the_version() {
        assert!(full().starts_with(VERSION));
        assert!(COMMIT.is_none_or(|commit| full().ends_with(&format!("({commit})"))));
    }
}
