//! The one notice above the page: the worst of what needs its reader.

use serde::Serialize;

use super::super::figures;
use crate::domain::error::{Cure, Error};
use crate::gateway::{Status, UpstreamState};
use crate::http::codes;
use crate::http::page::Language;

/// That the statistics cannot be read.
pub const STORE: &str = "store";

/// What needs the reader.
#[derive(Serialize)]
pub struct Notice {
    /// By which its messages are named.
    pub id: &'static str,
    /// `bad` or `warn`.
    level: &'static str,
    /// Which upstream, where there are several.
    name: Option<String>,
    /// What happened, and what to do, in the words of its code.
    words: Option<(&'static str, &'static str)>,
    /// Hours until it happens.
    hours: Option<u64>,
    /// Where something is done about it: `login` or `service`.
    act: &'static str,
}

impl Notice {
    fn new(id: &'static str, level: &'static str, act: &'static str) -> Self {
        Notice { id, level, name: None, words: None, hours: None, act }
    }

    fn saying(self, error: Option<&Error>, language: Language) -> Self {
        let words = error.and_then(|error| codes::words(language, error.kind.code()));
        Notice { words: words.map(|words| (words.what.as_str(), words.act.as_str())), ..self }
    }
}

/// The worst of what there is.
pub fn worst(
    upstreams: &[UpstreamState],
    unread: Option<&Error>,
    is_demo: bool,
    language: Language,
) -> Option<Notice> {
    if let Some(error) = unread {
        return Some(Notice::new(STORE, "bad", "service").saying(Some(error), language));
    }
    if is_demo {
        return Some(Notice::new("demo", "warn", "setup"));
    }
    let mut all: Vec<_> = upstreams.iter().filter_map(|upstream| of(upstream, language)).collect();
    all.sort_by_key(|(rank, _)| *rank);
    let (_, mut notice) = all.into_iter().next()?;
    if upstreams.len() == 1 {
        notice.name = None;
    }
    Some(notice)
}

/// What an upstream needs, the worst with the smallest number.
fn of(upstream: &UpstreamState, language: Language) -> Option<(u8, Notice)> {
    let health = upstream.health.as_ref();
    let error = health.and_then(|health| health.error.as_ref());
    let status = health.map_or(Status::Ok, |health| health.status);
    let (rank, notice) = if upstream.session == "expired" {
        (0, Notice::new("expired", "bad", "login"))
    } else if status != Status::Ok {
        let act = match error.map(|error| error.kind.cure()) {
            Some(Cure::Login) => "login",
            _ => "service",
        };
        let (rank, level) = if status == Status::Down { (1, "bad") } else { (2, "warn") };
        (rank, Notice::new("unwell", level, act).saying(error, language))
    } else if upstream.breaker == "open" {
        (3, Notice::new("open", "warn", "service"))
    } else if upstream.session == "expiring" {
        let hours = upstream.session_ends.map(figures::hours_until);
        (4, Notice { hours, ..Notice::new("expiring", "warn", "login") })
    } else {
        return None;
    };
    Some((rank, Notice { name: Some(upstream.name.clone()), ..notice }))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::domain::error::Kind;
    use crate::gateway::Health;
    use crate::provider::session::State;

    fn upstream(status: Status, session: State, kind: Option<Kind>) -> UpstreamState {
        let health = Health {
            upstream: "u".into(),
            status,
            latency: Duration::ZERO,
            session,
            error: kind.map(|kind| Error::new(kind, "it failed")),
        };
        UpstreamState {
            name: format!("{status:?}"),
            health: Some(health),
            breaker: "closed",
            session: session.name(),
            has_login: true,
            session_since: None,
            session_ends: Some(SystemTime::now() + Duration::from_secs(20 * 3600 + 60)),
        }
    }

    #[test]
    fn the_worst_is_told_and_nothing_where_all_is_well() {
        let well = upstream(Status::Ok, State::Ok, None);
        let ends = upstream(Status::Ok, State::Expiring, None);
        let down = upstream(Status::Down, State::Ok, Some(Kind::UpstreamUnreachable));
        let ended = upstream(Status::Degraded, State::Expired, Some(Kind::UpstreamAuthExpired));
        let told = |upstreams: &[UpstreamState]| {
            worst(upstreams, None, false, Language::English)
                .map(|notice| (notice.id, notice.act, notice.name))
        };
        assert_eq!(told(std::slice::from_ref(&well)), None);
        assert_eq!(told(std::slice::from_ref(&ends)), Some(("expiring", "login", None)));
        assert_eq!(told(&[ends.clone(), down.clone()]), Some(("unwell", "service", Some("Down".into()))));
        assert_eq!(told(&[down, ended, well]), Some(("expired", "login", Some("Degraded".into()))));
        let hours = worst(&[ends], None, false, Language::English).and_then(|notice| notice.hours);
        assert_eq!(hours, Some(20));
        let broken = Error::new(Kind::StorageUnavailable, "no disk");
        let told = worst(&[], Some(&broken), true, Language::English).expect("a notice");
        assert!(told.id == STORE && told.words.is_some());
        assert_eq!(worst(&[], None, true, Language::English).map(|notice| notice.id), Some("demo"));
    }
}
