//! Says which version the program is, with the commit that it is built from, and builds anew when a migration
//! is added: the program carries them.
//!
//! The commit is that of `MIRRORGATE_COMMIT`, which images and workflows set, else git's own description. It
//! is looked at when the sources change and not at each commit, since that would build everything anew.

use std::path::Path;
use std::process::Command;

fn main() {
    for path in ["build.rs", "Cargo.toml", "Cargo.lock", "migrations", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=MIRRORGATE_COMMIT");
    let given = std::env::var("MIRRORGATE_COMMIT").ok().map(|text| text.trim().to_string());
    let commit = given.filter(|text| !text.is_empty()).map(short).or_else(described).unwrap_or_default();
    println!("cargo::rustc-env=MIRRORGATE_BUILT_FROM={commit}");
}

/// A full hash is longer than anyone reads.
fn short(text: String) -> String {
    let is_hash = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { text[..12].into() } else { text }
}

/// How git calls what stands here; nothing where this folder is no repository's own.
fn described() -> Option<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    let top = Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if top != here {
        return None;
    }
    git(&["describe", "--always", "--tags", "--dirty"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!text.is_empty()).then_some(text)
}
