//! Which paths are of this API.

/// Whether a path is of this API.
pub fn covers(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/v1" || canonical(path).is_some()
}

/// The path that is meant by one that people paste by mistake: `/v1` left out, or there twice.
pub fn canonical(path: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix("/v1/v1/") {
        return Some(format!("/v1/{rest}"));
    }
    let bare = path == "/chat/completions" || path == "/models" || path.starts_with("/models/");
    bare.then(|| format!("/v1{path}"))
}
