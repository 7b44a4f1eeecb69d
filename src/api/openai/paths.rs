//! Which paths are of this API.

const COMPLETIONS: [&str; 2] = ["chat", "completions"];

/// Paths of one word below which there is nothing, so that what follows them can only be a slash too many.
const WORDS: [&str; 4] = ["completions", "embeddings", "moderations", "rerank"];

/// Whether a path is of this API.
pub fn covers(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/v1" || canonical(path).is_some()
}

/// The path that is meant by one that people paste by mistake: with `/v1` or a whole path left out or
/// there twice, with slashes doubled or at the end. `None` for one that is good as it is.
pub fn canonical(path: &str) -> Option<String> {
    if path == "/v1/chat/completions" {
        return None;
    }
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    while let ["v1", "v1", ..] = segments.as_slice() {
        segments.remove(0);
    }
    let bare = match segments.as_slice() {
        ["v1", rest @ ..] => rest,
        ["models", ..] => &segments,
        other if other == COMPLETIONS => &segments,
        _ => return None,
    };
    let twice =
        bare.len() > COMPLETIONS.len() && bare.starts_with(&COMPLETIONS) && bare.ends_with(&COMPLETIONS);
    let meant = if twice { &COMPLETIONS } else { bare };
    let is_word = matches!(meant, [word] if WORDS.contains(word));
    let is_known = meant == COMPLETIONS || is_word || meant.first() == Some(&"models");
    // Elsewhere an empty segment may stand for an id that was left out, and must not become another path.
    if !is_known && path.split('/').skip(1).any(str::is_empty) {
        return None;
    }
    let meant = ["", "v1"].iter().chain(meant).copied().collect::<Vec<_>>().join("/");
    (meant != path).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_paths_lead_to_what_is_meant() {
        for path in [
            "/v1/v1/chat/completions",
            "/chat/completions",
            "/v1/chat/completions/",
            "/v1//chat/completions",
            "//v1/chat//completions//",
            "/v1/chat/completions/v1/chat/completions",
            "/v1/chat/completions/chat/completions",
        ] {
            assert_eq!(canonical(path).as_deref(), Some("/v1/chat/completions"), "{path}");
        }
        assert_eq!(canonical("/v1//models").as_deref(), Some("/v1/models"));
        assert_eq!(canonical("/v1//embeddings/").as_deref(), Some("/v1/embeddings"));
        assert_eq!(canonical("/models/a/b").as_deref(), Some("/v1/models/a/b"));
        assert_eq!(canonical("/v1/v1/files/a").as_deref(), Some("/v1/files/a"));
        for path in ["/v1/chat/completions", "/v1/models", "/v1", "/api/chat", "/", "/v1/files/a", "/chat"] {
            assert_eq!(canonical(path), None, "{path}");
        }
        for path in ["/v1/files//", "/v1//files", "/v1/files//content", "//v1/files/a"] {
            assert_eq!(canonical(path), None, "{path}");
        }
    }
}
