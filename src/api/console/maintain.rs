//! The page that says what needs the owner: the doctor's findings, the session, what is kept for each key, backups,
//! the audit trail, the version. What is done there goes through the operations of `/api`.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::{Path, absolute};
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;
use minijinja::value::Serde;
use serde::Deserialize;
use serde_json::{Value, json};

use super::changes::CHANGES;
use super::figures;
use super::page::{self, Page};
use crate::api::kept;
use crate::api::upstream::UpstreamResult;
use crate::doctor::{Doctor, Finding, Level};
use crate::domain::error::Error;
use crate::gateway::{Deed, Gateway, UpstreamKeeper, UpstreamState};
use crate::http::auth::Guard;
use crate::http::base_url::Peers;
use crate::http::codes;
use crate::http::failure::Failure;
use crate::http::page::{Language, html};
use crate::version;

/// The page.
pub const PAGE: Page = Page {
    id: "maintain",
    is_listed: true,
    template: include_str!("maintain.html"),
    messages: [include_str!("messages.maintain.en.json"), include_str!("messages.maintain.zh-Hant.json")],
    script: Some(include_str!("maintain.js")),
    style: include_str!("maintain.css"),
};

/// Entries of the audit trail that are shown at first, and on a page of all of them.
const FEW: usize = 8;
const MANY: usize = 100;

/// Which part of the audit trail.
#[derive(Deserialize)]
struct MaintainQuery {
    audit: Option<String>,
    before: Option<i64>,
}

#[get("/console/part/maintain")]
pub async fn part(
    request: HttpRequest,
    query: Query<MaintainQuery>,
    (gateway, guard): (Data<Gateway>, Data<Guard>),
    (keeper, doctor): (Data<UpstreamKeeper>, Data<Doctor>),
) -> Result<HttpResponse, Failure> {
    let all = query.audit.as_deref() == Some("all");
    let read = async {
        let kept = kept::of_all(&gateway, &guard).await?;
        let deeds = gateway.deeds(query.before, if all { MANY } else { FEW }).await?;
        Ok::<_, Error>((kept, deeds))
    };
    let (kept, deeds) = read.await.map_err(|error| Failure::new(&request, error))?;
    let oldest = deeds.last().map(|(at, _)| *at).filter(|_| deeds.len() >= MANY);
    let (language, upstreams) = (Language::of(&request), gateway.upstream_states().await);
    let context = context! {
        now => Serde(UpstreamResult::of(&keeper, &doctor)),
        protocols => protocols(&keeper),
        logins => Serde(upstreams.iter().map(login).collect::<Vec<_>>()),
        kept => Serde(kept),
        deeds => Serde(deeds.iter().map(entry).collect::<Vec<_>>()),
        all => all,
        oldest => oldest,
        failures => Serde(super::setup::failures(language)),
        restore => doctor.place.store.file().map(restore),
        keeps => doctor.place.store.lasts(),
        version => version::full(),
        changes => Serde(&*CHANGES),
    };
    Ok(page::part(&PAGE, language, context))
}

/// What puts a backup in the place of the store at this path, as words of a command. No page does: the file
/// goes away from under every thread and replica that has it open, so `restore` wants them stopped.
fn restore(store: &Path) -> String {
    let folder = absolute(store).unwrap_or_else(|_| store.into());
    let folder = folder.parent().unwrap_or(&folder).display().to_string();
    format!("--force --data-dir {}", quoted(&folder))
}

/// A word of a command as the shells of this system take it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/\\:._-".contains(letter);
    match word.chars().all(is_plain) {
        true => word.into(),
        false if cfg!(windows) => format!("\"{word}\""),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// What the upstreams speak, each once: a web chat is given a login by what a browser copies, others a key.
fn protocols(keeper: &UpstreamKeeper) -> Vec<&'static str> {
    let present = keeper.present();
    let names: BTreeSet<_> =
        present.endpoints.iter().map(|endpoint| endpoint.settings.protocol.name()).collect();
    names.into_iter().collect()
}

/// How the login of an upstream stands, its times in milliseconds.
fn login(upstream: &UpstreamState) -> Value {
    let at = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
    let left = upstream.session_ends.filter(|ends| *ends > SystemTime::now());
    json!({
        "name": upstream.name,
        "state": upstream.session,
        "is_set": upstream.has_login,
        "since": upstream.session_since.map(at),
        "age": upstream.session_since.map(figures::age),
        "ends": upstream.session_ends.map(at),
        "hours": left.map(figures::hours_until),
    })
}

/// An entry of the audit trail; its action names a message.
fn entry((at, deed): &(i64, Deed)) -> Value {
    let Deed { actor, address, action, target } = deed;
    let word = format!("deed_{}", action.replace('.', "_"));
    json!({"at": at, "actor": actor, "address": address, "action": action, "word": word, "target": target})
}

#[get("/console/part/doctor")]
pub async fn doctor_part(
    request: HttpRequest,
    doctor: Data<Doctor>,
    (peers, guard): (Data<Peers>, Data<Guard>),
) -> HttpResponse {
    let language = Language::of(&request);
    // What signs in to the console is no key with which Dify's calls could be made again.
    let mut findings = doctor.examine(peers.base_url(&request), None).await.unwrap_or_default();
    findings.retain(|finding| !(guard.needs_key() && finding.check.starts_with("replay.")));
    findings.sort_by_key(|finding| Reverse(finding.level));
    let of = |level: Level| {
        let found =
            findings.iter().filter(|finding| finding.level == level).map(|finding| found(finding, language));
        Serde(found.collect::<Vec<_>>())
    };
    let context = context! {
        busy => findings.is_empty(),
        broken => of(Level::Broken),
        warnings => of(Level::Warning),
        fine => of(Level::Ok),
    };
    html(page::render("doctor", &PAGE, language, context))
}

fn found(finding: &Finding, language: Language) -> Value {
    let Finding { check, seen, advice, code, .. } = finding;
    let word = check.replace('.', "_");
    let pieces = |text: &str| text.split('`').map(String::from).collect::<Vec<_>>();
    let words = code.and_then(|code| codes::words(language, code));
    let (what, act) = words.map(|words| (&words.what, &words.act)).unzip();
    let (seen, advice) = (pieces(seen), advice.as_deref().map(pieces));
    json!({"check": check, "word": word, "seen": seen, "advice": advice, "code": code, "what": what, "act": act})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_folder_of_any_name_is_one_word_of_the_command() {
        assert_eq!(
            restore(Path::new("/data/mirrorgate/mirrorgate.db")),
            "--force --data-dir /data/mirrorgate"
        );
        assert_eq!(restore(Path::new("/my data/it's/m.db")), "--force --data-dir '/my data/it'\\''s'");
    }
}
