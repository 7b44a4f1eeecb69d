//! A service that runs elsewhere, asked for what it knows of itself: by its owner its own doctor, by a
//! caller its health, and by anybody whether it is live and ready.

use std::borrow::Cow;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;

use super::finding::{Finding, Level};
use super::http::{self, Answer};
use super::{Service, TIME};
use crate::domain::error::Kind;

/// The service's own examination may take half a minute.
const EXAMINATION_TIME: Duration = Duration::from_secs(60);

/// The service asks its mirror for its health.
const HEALTH_TIME: Duration = Duration::from_secs(15);

/// What begins the names of checks that only the service itself can make. The others are made from here as
/// well, from where its callers come.
const INSIDE: [&str; 4] = ["upstream", "session", "store", "backup"];

/// Asks the service; says whether the key is its owner's.
pub async fn check(service: &Service, findings: &mut Vec<Finding>) -> bool {
    findings.push(ready(service).await);
    let Some(key) = service.key.as_ref().map(|key| key.expose_secret().trim()) else {
        findings.push(live(service).await);
        return false;
    };
    let authorization = format!("Bearer {key}");
    match get(service, "/api/doctor", Some(&authorization), EXAMINATION_TIME).await {
        Ok(answer) if answer.status == 200 => {
            examined(&answer, findings);
            return true;
        }
        Ok(answer) if is(&answer, Kind::Overloaded) => {
            findings.push(Finding::warning(
                "service.doctor",
                "the service is being examined already",
                "ask again in half a minute",
            ));
            return true;
        }
        Ok(answer) if is(&answer, Kind::OwnerOnly) => {
            findings.push(Finding::warning(
                "service.doctor",
                "the service's own examination was not made: this key is not its owner's",
                "give the admin key, to see its mirror, its login and its store as well: `mirrorgate doctor --url URL --key ADMIN_KEY`",
            ));
            findings.push(health(service, &authorization).await);
        }
        // A wrong key or another program there is told where Dify's calls are replayed.
        Ok(_) | Err(_) => {}
    }
    false
}

async fn get(
    service: &Service,
    path: &str,
    authorization: Option<&str>,
    limit: Duration,
) -> Result<Answer, String> {
    let mut headers = vec![("accept", "application/json".to_string())];
    headers.extend(authorization.map(|value| ("authorization", value.to_string())));
    let url = format!("{}{path}", service.base);
    http::send(http::Request { url: &url, headers: &headers, body: None, limit }).await
}

fn body(answer: &Answer) -> Value {
    serde_json::from_str(answer.text.trim()).unwrap_or_default()
}

/// Whether it is a failure of this kind.
fn is(answer: &Answer, kind: Kind) -> bool {
    body(answer)["error"]["code"] == kind.code()
}

/// Whether it takes requests, as a platform asks.
async fn ready(service: &Service) -> Finding {
    const CHECK: &str = "service.ready";
    match get(service, "/ready", None, TIME).await {
        Ok(answer) if answer.status == 200 && body(&answer)["status"] == "ok" => {
            Finding::ok(CHECK, "the service takes requests")
        }
        Ok(answer) if answer.status == 503 => {
            let reasons: Vec<String> =
                serde_json::from_value(body(&answer)["reasons"].clone()).unwrap_or_default();
            let advice =
                "look into its log; its owner sees more: `mirrorgate doctor --url URL --key ADMIN_KEY`";
            Finding::broken(CHECK, format!("it takes no requests: {}", reasons.join("; ")), advice)
        }
        Ok(answer) => Finding::broken(
            CHECK,
            format!("{}/ready answers HTTP {} and not as mirrorgate does", service.base, answer.status),
            "check that the address is mirrorgate's base URL, and what stands in front of it",
        ),
        Err(why) => Finding::broken(CHECK, why, "see whether the service runs there"),
    }
}

/// What anybody may know of its mirror.
async fn live(service: &Service) -> Finding {
    const CHECK: &str = "service.health";
    let advice = "give a key, to see why: `mirrorgate doctor --url URL --key KEY`";
    match get(service, "/health", None, TIME).await {
        Ok(answer) if body(&answer)["status"] == "ok" => {
            Finding::ok(CHECK, "the service is live; without a key it tells nothing of its mirror")
        }
        Ok(answer) if body(&answer)["status"] == "degraded" => {
            Finding::broken(CHECK, "its mirror did not accept the login when it was last asked", advice)
        }
        Ok(answer) => Finding::broken(CHECK, format!("/health answers HTTP {}", answer.status), advice),
        Err(why) => Finding::broken(CHECK, why, "see whether the service runs there"),
    }
}

/// What a caller may know of its mirror.
async fn health(service: &Service, authorization: &str) -> Finding {
    const CHECK: &str = "service.health";
    let body = match get(service, "/api/health", Some(authorization), HEALTH_TIME).await {
        Ok(answer) => body(&answer),
        Err(why) => return Finding::broken(CHECK, why, "see whether its mirror is slow"),
    };
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_string();
    let (status, session) = (text(&body["status"]), text(&body["session"]));
    let error = &body["error"];
    let seen = match error["message"].as_str() {
        Some(message) => format!("its mirror is {status}, the login {session}: {message}"),
        None => format!("its mirror is {status}, the login {session}"),
    };
    match (status.as_str(), session.as_str()) {
        ("ok", "expiring") => {
            Finding::warning(CHECK, seen, "its owner should log in to the mirror again before")
        }
        ("ok", _) => Finding::ok(CHECK, seen),
        // Of several mirrors some are well.
        ("degraded", _) if error.is_null() => {
            Finding::warning(CHECK, seen, "its owner sees which of its mirrors fails, and why")
        }
        _ => Finding::broken(CHECK, seen, error["hint"].as_str().unwrap_or("ask its owner").to_string()),
    }
}

/// A finding as a service writes it.
#[derive(Deserialize)]
struct Told {
    check: String,
    status: String,
    seen: String,
    advice: Option<String>,
}

/// Takes in what the service found of what lies behind it.
fn examined(answer: &Answer, findings: &mut Vec<Finding>) {
    let Ok(told) = serde_json::from_value::<Vec<Told>>(body(answer)["findings"].take()) else {
        findings.push(Finding::broken(
            "service.doctor",
            "the service's own findings cannot be read",
            "use the same version of mirrorgate here and there",
        ));
        return;
    };
    let inside = |check: &str| INSIDE.iter().any(|begin| check.split('.').next() == Some(begin));
    findings.extend(told.into_iter().filter(|told| inside(&told.check)).map(|told| Finding {
        check: Cow::Owned(told.check),
        level: Level::named(&told.status),
        seen: told.seen,
        advice: told.advice,
        code: None,
    }));
}
