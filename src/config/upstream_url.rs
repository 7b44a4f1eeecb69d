//! `UPSTREAM_URL` as people write it, checked. What it means to a protocol is worked out in `provider`.

use url::Url;

/// What is wrong, and what to do.
type Mistake = (String, &'static str);

/// The URL that a text is.
pub fn parse(text: &str) -> Result<Url, Mistake> {
    let bad = |what: &str, advice: &'static str| (format!("`{text}` {what}"), advice);
    let url = Url::parse(text).map_err(|_| {
        bad(
            "is not a URL",
            "give scheme and host, such as https://mirror.example.com or http://127.0.0.1:8000/v1",
        )
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad(
            "is not an http or https URL",
            "start it with https:// or http://, such as https://mirror.example.com",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "holds a user name or a password".into(),
            "move them out of the URL: `Authorization: Basic …` in UPSTREAM_HEADERS",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("holds a query or a fragment", "leave out everything from `?` or `#` on"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_explained() {
        for text in [
            "m.example.com",
            "ftp://m",
            "https://u:p@m.example.com",
            "https://m.example.com/?a=1",
            "localhost:8000",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
