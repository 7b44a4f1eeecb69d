//! The service as Dify sees it before any call: its address, its certificate, and its document,
//! fetched as Dify's importer fetches it.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use url::{Host, Url};

use super::finding::{Finding, Level};
use super::http::{self, Answer};
use super::net::{self, Checks};
use super::{Outside, Source, document};
use crate::domain::error::Kind;
use crate::outbound::tls;
use crate::reachability::Unreachable;

/// How long Dify waits for a document.
const FETCH_TIME: Duration = Duration::from_secs(10);

/// A document that takes longer comes from a service that sleeps.
const SLOW: Duration = Duration::from_secs(5);

const CHECKS: Checks =
    Checks { dns: "public.dns", tcp: "public.tcp", tls: "public.certificate", setting: "PUBLIC_URL" };

/// Checks the public side; gives the time by its clock beside ours, if it told that.
pub async fn check(
    outside: &Outside,
    progress: &dyn Fn(&str),
    findings: &mut Vec<Finding>,
) -> Option<(SystemTime, SystemTime)> {
    let base = outside.base.as_str();
    let Ok(url) = Url::parse(&outside.address) else {
        findings.push(Finding::broken(
            "public.address",
            format!("`{}` is no URL", outside.address),
            "give an absolute URL, such as https://your-app.example.com",
        ));
        return None;
    };
    address(outside, &url, findings);
    if outside.source != Source::Nobody {
        progress("public URL: name, connection, certificate");
        if !net::reach(&url, &CHECKS, tls::mozilla_roots(), findings).await {
            return None;
        }
    }
    progress("document, as Dify fetches it");
    let document = format!("{base}/openapi.json");
    match fetch(&document).await {
        Ok(answer) => {
            fetched(outside, &document, &answer, findings);
            // A clock is no measure of itself.
            date(&answer).filter(|_| Unreachable::of(base) != Some(Unreachable::Loopback))
        }
        Err(why) => {
            findings.push(Finding::broken(
                "document.fetch",
                format!("{document}: {why}"),
                "start the service there, or correct PUBLIC_URL; Dify waits 10 seconds for the document",
            ));
            None
        }
    }
}

/// Fetches the document as an importer in a browser does. Where such importers are refused, it is
/// fetched as by one on a server, which is of no origin.
async fn fetch(document: &str) -> Result<Answer, String> {
    let headers = [
        ("origin", "https://cloud.dify.ai".to_string()),
        ("user-agent", http::BROWSER.to_string()),
        ("accept", "*/*".to_string()),
    ];
    let request = |headers| http::Request { url: document, headers, body: None, limit: FETCH_TIME };
    let answer = http::send(request(&headers)).await?;
    if answer.status == 403 && answer.text.contains(Kind::OriginNotAllowed.code()) {
        return http::send(request(&headers[1..])).await;
    }
    Ok(answer)
}

/// What the address itself says about who can reach it.
fn address(outside: &Outside, url: &Url, findings: &mut Vec<Finding>) {
    const CHECK: &str = "public.address";
    let base = outside.address.as_str();
    let unreachable = Unreachable::of(base);
    findings.push(match unreachable {
        None => Finding::ok(CHECK, format!("{base} is an https address on port 443")),
        Some(Unreachable::Loopback) => Finding {
            // A document that sends its readers to themselves is useless even in Docker.
            level: if outside.source == Source::Configured { Level::Broken } else { Level::Warning },
            ..Finding::warning(
                CHECK,
                format!("{base} means this machine to whoever uses it: Dify would call itself"),
                "for Dify in the cloud deploy the service, or start it with `mirrorgate serve --tunnel`; then import the address that it prints",
            )
        },
        Some(Unreachable::Private) => Finding::warning(
            CHECK,
            format!("{base} is an address of a private network"),
            "for Dify in the cloud deploy the service, or start it with `mirrorgate serve --tunnel`",
        ),
        Some(Unreachable::Http) => Finding::warning(
            CHECK,
            format!("{base} is not encrypted: the gateway key can be read on the way"),
            "put a proxy with a certificate in front (Caddy gets one by itself), and set PUBLIC_URL to its https address",
        ),
        Some(Unreachable::Port) => Finding::broken(
            CHECK,
            format!("{base} has another port than 443, and Dify's proxy lets https through to that one alone"),
            "serve https on port 443, and set PUBLIC_URL to the address without a port",
        ),
    });
    if matches!(unreachable, Some(Unreachable::Loopback | Unreachable::Private)) {
        findings.push(Finding::warning(
            "dify.private",
            "a Dify of your own (since mid-2026) denies calls to private addresses",
            docker_advice(url, unreachable == Some(Unreachable::Loopback)),
        ));
    }
}

/// The lines for a Dify in Docker beside the service.
fn docker_advice(url: &Url, loopback: bool) -> String {
    let (first, host) = match url.host() {
        _ if loopback => (
            format!(
                "set HOST=0.0.0.0 and PUBLIC_URL={}://host.docker.internal{}; ",
                url.scheme(),
                url.port().map(|port| format!(":{port}")).unwrap_or_default()
            ),
            "SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=host.docker.internal".to_string(),
        ),
        Some(Host::Domain(name)) => (String::new(), format!("SSRF_PROXY_ALLOW_PRIVATE_DOMAINS={name}")),
        Some(Host::Ipv4(address)) => (String::new(), format!("SSRF_PROXY_ALLOW_PRIVATE_IPS={address}")),
        Some(Host::Ipv6(address)) => (String::new(), format!("SSRF_PROXY_ALLOW_PRIVATE_IPS={address}")),
        None => (String::new(), "SSRF_PROXY_ALLOW_PRIVATE_IPS=ADDRESS".to_string()),
    };
    let linux = if host.ends_with("host.docker.internal") {
        "; on Linux give its `ssrf_proxy`, `api` and `worker` the line `extra_hosts: [\"host.docker.internal:host-gateway\"]`"
    } else {
        ""
    };
    format!("{first}in Dify's docker/.env write `{host}`, then run `docker compose up -d` there{linux}")
}

/// Looks at the document that came.
fn fetched(outside: &Outside, document: &str, answer: &Answer, findings: &mut Vec<Finding>) {
    const CHECK: &str = "document.fetch";
    if let Some(target) = answer.redirect() {
        findings.push(Finding::broken(
            "public.redirect",
            format!("{document} redirects (HTTP {}) to {target}", answer.status),
            "Dify follows no redirect here, and loses the key over others: import the address that it leads to, and set PUBLIC_URL to that",
        ));
        return;
    }
    findings.push(Finding::ok("public.redirect", "the document comes without a redirect"));
    if answer.status != 200 {
        findings.push(Finding::broken(
            CHECK,
            format!("{document} answers HTTP {}", answer.status),
            match answer.status {
                401 | 403 => "let the document through without a login: something in front of the service asks for one",
                404 => "check that it is mirrorgate's own base URL, and that a proxy in front passes all paths on",
                _ => "look into the service's log, and at the proxy in front of it",
            },
        ));
        return;
    }
    let Ok(value) = serde_json::from_str::<Value>(&answer.text) else {
        findings.push(Finding::broken(
            CHECK,
            format!("{document} is no JSON: a page of something in front of the service?"),
            "open it in a browser: it may be a login, a warning of the tunnel, or the page of a service that sleeps",
        ));
        return;
    };
    let took = answer.took;
    findings.push(if took > SLOW {
        Finding::warning(
            CHECK,
            format!("the document takes {} seconds", took.as_secs()),
            "Dify gives up after 10: a service that sleeps must be woken before the import",
        )
    } else {
        Finding::ok(CHECK, format!("the document comes in {} ms", took.as_millis()))
    });
    let rules = document::check(&value);
    if rules.is_empty() {
        findings.push(Finding::ok(document::CHECK, "it keeps all rules of Dify's importer"));
    }
    findings.extend(rules);
    let to = value["servers"][0]["url"].as_str().unwrap_or_default();
    findings.push(match to == outside.address {
        true => Finding::ok("document.server", format!("calls go to {to}")),
        false => server(&outside.base, to),
    });
    findings.push(match answer.header("access-control-allow-origin") {
        Some(_) => Finding::ok("public.cors", "browsers may read the document"),
        None => Finding::warning(
            "public.cors",
            "browsers of other origins may not read the document (CORS)",
            "Dify needs none; for importers in a browser, such as Open WebUI, add their origin to CORS_ALLOWED_ORIGINS",
        ),
    });
}

/// Whether calls go where the document came from.
fn server(base: &str, server: &str) -> Finding {
    const CHECK: &str = "document.server";
    if server == base {
        return Finding::ok(CHECK, format!("calls go to {server}"));
    }
    let seen = format!("the document came from {base} and sends calls to {server}");
    if Unreachable::of(base).is_none() && Unreachable::of(server).is_some() {
        return Finding::broken(CHECK, seen, format!("start the service with PUBLIC_URL={base}"));
    }
    Finding::warning(CHECK, seen, format!("if {base} is the right address, set PUBLIC_URL to it"))
}

/// The time by an answer's own clock, and by ours when it came.
pub fn date(answer: &Answer) -> Option<(SystemTime, SystemTime)> {
    Some((http::time(answer.header("date")?)?, SystemTime::now()))
}

/// Compares two clocks.
pub fn clock((theirs, ours): (SystemTime, SystemTime)) -> Finding {
    const CHECK: &str = "clock";
    let apart = ours.duration_since(theirs).unwrap_or_else(|error| error.duration()).as_secs();
    let seen = format!("this machine's clock and the peer's are {apart} seconds apart");
    match apart {
        0..=30 => Finding::ok(CHECK, seen),
        31..=300 => Finding::warning(CHECK, seen, "set this machine's clock, by NTP"),
        _ => Finding::broken(
            CHECK,
            seen,
            "set this machine's clock, by NTP: certificates and logins are judged by it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_dify_names_the_very_host() {
        for (url, loopback, words) in [
            ("http://192.168.1.5:8080", false, "`SSRF_PROXY_ALLOW_PRIVATE_IPS=192.168.1.5`"),
            ("http://host.docker.internal:8080", false, "extra_hosts"),
            ("http://gateway:8080", false, "`SSRF_PROXY_ALLOW_PRIVATE_DOMAINS=gateway`"),
            ("http://127.0.0.1:8080", true, "PUBLIC_URL=http://host.docker.internal:8080;"),
        ] {
            let advice = docker_advice(&Url::parse(url).expect("a URL"), loopback);
            assert!(advice.contains(words), "{url}: {advice}");
        }
    }

    #[test]
    fn clocks_far_apart_are_told() {
        let now = SystemTime::now();
        for (seconds, level) in [(0, Level::Ok), (100, Level::Warning), (4000, Level::Broken)] {
            assert_eq!(clock((now - Duration::from_secs(seconds), now)).level, level);
            assert_eq!(clock((now + Duration::from_secs(seconds), now)).level, level);
        }
    }

    #[test]
    fn calls_that_go_elsewhere_are_told() {
        let level = |base: &str, to: &str| server(base, to).level;
        assert_eq!(level("https://a.example.com", "https://a.example.com"), Level::Ok);
        assert_eq!(level("https://a.example.com", "http://10.0.0.1:8080"), Level::Broken);
        assert_eq!(level("http://127.0.0.1:8080", "https://a.example.com"), Level::Warning);
    }
}
