//! The mirror, step by step: name, connection, TLS, then the cheapest request that needs the login,
//! and one real question where that is asked for.

use std::time::SystemTime;

use tokio::time::{Instant, timeout};

use super::finding::Finding;
use super::net::{self, Checks};
use super::{QUESTION_TIME, TIME, http, public};
use crate::config;
use crate::domain::chat::{Chat, Message, Prompt, Role};
use crate::domain::error::{Error, Kind, Session};
use crate::outbound::tls;
use crate::provider::{Endpoint, Upstream};
use crate::reachability::Unreachable;

const CHECKS: Checks =
    Checks { dns: "upstream.dns", tcp: "upstream.tcp", tls: "upstream.tls", setting: "UPSTREAM_URL" };

/// Checks the mirror; gives the time by its clock, if it told that.
pub async fn check(
    mirror: &Endpoint,
    deep: bool,
    progress: &dyn Fn(&str),
    findings: &mut Vec<Finding>,
) -> Option<(SystemTime, SystemTime)> {
    let settings = &mirror.settings;
    if settings.url.is_none() {
        findings.push(Finding::warning(
            "upstream",
            "the built-in demo answers: no model is connected",
            "set UPSTREAM_URL to your mirror's address, and UPSTREAM_API_KEY or UPSTREAM_COOKIE",
        ));
    } else {
        progress("upstream: name, connection, TLS");
        if !net::reach(&mirror.base, &CHECKS, tls::mozilla_roots(), findings).await {
            return None;
        }
        let foreign = Unreachable::of(mirror.base.as_str()) == Some(Unreachable::Http);
        if foreign && has_credentials(settings) {
            findings.push(Finding::warning(
                "upstream.tls",
                "the address is http: key and cookies travel unencrypted",
                "set UPSTREAM_URL to the mirror's https address, if it has one",
            ));
        }
    }
    progress("upstream: login and models");
    let upstream = Upstream::new(mirror.base.clone(), settings, mirror.session.clone());
    let answers = probe(&upstream, settings, findings).await;
    if deep && answers {
        progress("upstream: one question (up to 30 seconds)");
        findings.push(question(&upstream, settings).await);
    }
    if settings.url.is_none() || !answers {
        return None;
    }
    // Without credentials: only the date is wanted.
    let url = mirror.base.origin().ascii_serialization();
    let request = http::Request { url: &url, headers: &[], body: None, limit: TIME };
    http::send(request).await.ok().and_then(|answer| public::date(&answer))
}

fn has_credentials(settings: &config::Upstream) -> bool {
    settings.api_key.is_some() || settings.cookie.is_some()
}

/// Asks what costs nothing and needs the login; says whether a question can follow.
async fn probe(upstream: &Upstream, settings: &config::Upstream, findings: &mut Vec<Finding>) -> bool {
    let start = Instant::now();
    let ask = async {
        match upstream.models().await? {
            Some(models) => Ok(Some(models)),
            None => upstream.probe().await.map(|()| None),
        }
    };
    let outcome = timeout(TIME, ask).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::UpstreamTimeout, format!("no answer within {} seconds", TIME.as_secs()))
            .hinted("see whether the mirror is slow or asleep; the service itself waits longer: FIRST_BYTE_TIMEOUT_SECONDS"))
    });
    let took = start.elapsed().as_millis();
    let error = match outcome {
        Ok(listed) => {
            findings.push(Finding::ok("upstream.probe", format!("it answers in {took} ms")));
            findings.push(Finding::ok("upstream.redirect", "it answers where it is asked"));
            findings.push(login(settings, upstream).await);
            let listed = listed.map(|models| models.into_iter().map(|model| model.id).collect::<Vec<_>>());
            findings.push(models(settings, listed.as_deref()));
            return true;
        }
        Err(error) => error,
    };
    let check = match error.kind {
        Kind::UpstreamRedirect => "upstream.redirect",
        Kind::UpstreamRateLimited => {
            let seen = error.caller_message();
            findings.push(Finding::warning("upstream.probe", seen, error.hint()));
            return false;
        }
        // A mirror need not list its models, if it is told which to name.
        Kind::UpstreamNotFound if settings.default_model.is_some() || !settings.models.is_empty() => {
            findings.push(Finding::warning(
                "upstream.models",
                format!("it lists no models: {}", error.caller_message()),
                "if questions fail as well, check the path in UPSTREAM_URL; `mirrorgate doctor --deep` asks one",
            ));
            return true;
        }
        kind if kind.session() != Session::Same => "upstream.login",
        _ => "upstream.probe",
    };
    findings.push(Finding::failed(check, &error));
    false
}

/// What the good answer says of the login.
async fn login(settings: &config::Upstream, upstream: &Upstream) -> Finding {
    const CHECK: &str = "upstream.login";
    let browser_login = upstream.capabilities().browser_login;
    let (login, accepted) = match (browser_login, &settings.cookie, &settings.api_key) {
        (false, _, None) => return Finding::ok(CHECK, "it lists its models without a key"),
        (true, None, _) if settings.url.is_some() => {
            return Finding::warning(
                CHECK,
                "a web chat without a cookie",
                "set UPSTREAM_COOKIE, if the mirror has a login: `mirrorgate import-curl` reads it from your browser's request",
            );
        }
        (true, None, _) => return Finding::ok(CHECK, "the demo needs none"),
        (true, Some(_), _) => ("cookie", "the cookie is accepted: without it the same request is refused"),
        (false, _, Some(_)) => ("key", "the key is accepted: without it the same request is refused"),
    };
    if upstream.probe_needs_login().await {
        return Finding::ok(CHECK, accepted);
    }
    let seen = format!(
        "it does not refuse the {login}, and gives the same without it; only a question (--deep) surely needs it"
    );
    Finding::ok(CHECK, seen)
}

/// Whether the model that questions get is one that exists.
fn models(settings: &config::Upstream, listed: Option<&[String]>) -> Finding {
    const CHECK: &str = "upstream.models";
    let wanted = settings.default_model.iter().chain(&settings.models);
    match listed {
        Some([]) => Finding::warning(
            CHECK,
            "the list of models is empty",
            "check in the mirror which models the account may use, and set DEFAULT_MODEL",
        ),
        Some(listed) => match wanted.into_iter().find(|model| !listed.contains(model)) {
            Some(model) => Finding::warning(
                CHECK,
                format!("`{model}` is not among the {} models that it lists", listed.len()),
                format!("correct DEFAULT_MODEL or MODELS; the list begins with `{}`", listed[0]),
            ),
            None => Finding::ok(
                CHECK,
                format!("it lists {} model(s), the first is `{}`", listed.len(), listed[0]),
            ),
        },
        None if settings.models.is_empty() && settings.default_model.is_none() => Finding::warning(
            CHECK,
            "this kind of upstream cannot list its models, and none is set",
            "set MODELS to the names that the chat's own page uses, so that list_models works",
        ),
        None => Finding::ok(CHECK, "named by MODELS or DEFAULT_MODEL"),
    }
}

/// Asks one short question, and times its first piece and its end.
async fn question(upstream: &Upstream, settings: &config::Upstream) -> Finding {
    const CHECK: &str = "upstream.question";
    let start = Instant::now();
    let ask = async {
        let mut model = settings.default_model.clone().or(settings.models.first().cloned());
        if model.is_none() && !upstream.keeps_conversations() {
            model =
                upstream.models().await.ok().flatten().and_then(|list| list.into_iter().next()).map(|m| m.id);
        }
        let messages = vec![Message::new(Role::User, "Reply with the word pong.")];
        let chat = Chat { messages, ..Chat::default() };
        let asked = Instant::now();
        let mut deltas = upstream.ask(&Prompt { model, chat, thread: None, total: None }).await?;
        let mut first = None;
        while let Some(delta) = deltas.next().await {
            let delta = delta?;
            if !delta.text.is_empty() || !delta.reasoning.is_empty() {
                first.get_or_insert_with(|| asked.elapsed());
            }
        }
        first.ok_or_else(|| Error::new(Kind::UpstreamEmpty, "the answer holds no text"))
    };
    match timeout(QUESTION_TIME, ask).await {
        Ok(Ok(first)) => Finding::ok(
            CHECK,
            format!(
                "it answers a question: first token after {} ms, all after {} ms",
                first.as_millis(),
                start.elapsed().as_millis()
            ),
        ),
        Ok(Err(error)) => Finding::failed(CHECK, &error),
        Err(_) => Finding::warning(
            CHECK,
            format!("no whole answer within {} seconds", QUESTION_TIME.as_secs()),
            "ask one with `mirrorgate chat \"Hello\"` and see how it comes; try another DEFAULT_MODEL",
        ),
    }
}
