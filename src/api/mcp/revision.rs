//! Which revision of the protocol a request is of, and whether it is as that one wants it.
//!
//! Up to 2025-11-25 a client introduces itself once and is told the version; this service keeps nothing
//! of it. From 2026-07-28 on each request says all of it, in its `_meta` and again in headers that
//! have to agree, so that a proxy can trust them. Source:
//! <https://modelcontextprotocol.io/specification/2026-07-28/basic/versioning>.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::failure::Refusal;
use super::message::Params;

/// The header with the version. Dify sends none.
const VERSION_HEADER: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The headers that repeat the method and, of a call, the tool's name.
const METHOD_HEADER: HeaderName = HeaderName::from_static("mcp-method");
const NAME_HEADER: HeaderName = HeaderName::from_static("mcp-name");

/// The members of `_meta` that each request without an introduction has.
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";

/// The revision in which each request stands for itself.
const STATELESS: &str = "2026-07-28";

/// For a client that introduces itself and is ahead.
const NEWEST: &str = "2025-11-25";

/// For a client whose own version is none of these: Dify takes nothing newer.
const WIDELY_KNOWN: &str = "2025-06-18";

/// Every version, the newest first.
pub const VERSIONS: [&str; 5] = [STATELESS, NEWEST, WIDELY_KNOWN, "2025-03-26", "2024-11-05"];

/// The revisions that differ in what is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// Those in which a client introduces itself, 2024-11-05 to 2025-11-25.
    Introduced,
    /// Those in which each request stands for itself, from 2026-07-28 on.
    Stateless,
}

impl Revision {
    /// The HTTP status of a request that is refused: those that are introduced read the body of 200 alone.
    pub fn status(self, status: StatusCode) -> StatusCode {
        match self {
            Revision::Introduced => StatusCode::OK,
            Revision::Stateless => status,
        }
    }

    /// The revision of a request.
    ///
    /// # Errors
    /// When it is not spoken, or the request is not as it wants it.
    pub fn of(request: &HttpRequest, method: &str, params: &Params) -> Result<Self, Refusal> {
        let header = header(request, VERSION_HEADER);
        let told = params.meta.get(VERSION_KEY);
        let Some(told) = told else {
            return match header {
                Some(STATELESS) => Err(Refusal::meta(VERSION_KEY)),
                Some(version) if !VERSIONS.contains(&version) => Err(Refusal::version(version)),
                _ => Ok(Revision::Introduced),
            };
        };
        if header.is_none_or(|version| told != version) {
            return Err(Refusal::header(VERSION_HEADER.as_str()));
        }
        match header {
            Some(STATELESS) => check(request, method, params).map(|()| Revision::Stateless),
            Some(version) if VERSIONS.contains(&version) => Ok(Revision::Introduced),
            other => Err(Refusal::version(other.unwrap_or_default())),
        }
    }
}

/// The version that is spoken with a client that introduces itself.
pub fn agreed(params: &Params) -> &'static str {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Hello {
        protocol_version: String,
    }
    let asked = params.parse().map_or_else(String::new, |Hello { protocol_version }| protocol_version);
    let known = VERSIONS.into_iter().find(|version| *version == asked && asked.as_str() <= NEWEST);
    known.unwrap_or(if asked.as_str() > NEWEST { NEWEST } else { WIDELY_KNOWN })
}

/// Whether a request that stands for itself is whole, and its headers agree with it.
fn check(request: &HttpRequest, method: &str, params: &Params) -> Result<(), Refusal> {
    if !params.meta.get(CAPABILITIES_KEY).is_some_and(Value::is_object) {
        return Err(Refusal::meta(CAPABILITIES_KEY));
    }
    if header(request, METHOD_HEADER) != Some(method) {
        return Err(Refusal::header(METHOD_HEADER.as_str()));
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    if method == "tools/call"
        && let Some(Named { name }) = params.parse()
        && header(request, NAME_HEADER).and_then(decoded) != Some(name)
    {
        return Err(Refusal::header(NAME_HEADER.as_str()));
    }
    Ok(())
}

/// The only value of a header; none where there are several, which others could read otherwise.
fn header(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    let mut values = request.headers().get_all(name);
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// The value of a header that is in base64 where it could not stand there as it is.
fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|value| value.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_come_in_base64() {
        assert_eq!(decoded("chat").as_deref(), Some("chat"));
        assert_eq!(decoded("=?base64?Y2hhdA==?=").as_deref(), Some("chat"));
        assert_eq!(decoded("=?base64?Y2hhdA?="), None);
        assert_eq!(decoded("=?base64?/w==?="), None);
    }
}
