//! Each platform by the variables that it sets: the address in the document, where the service
//! listens, and what it says of a disk that does not last.

use mirrorgate::config::Config;

use crate::helpers::{KEY, spawn};
use crate::process::Process;

type Variables = &'static [(&'static str, &'static str)];

/// What a platform sets, and the public URL that follows.
const PLATFORMS: &[(&str, Variables, Option<&str>)] = &[
    (
        "Render",
        &[("RENDER", "true"), ("RENDER_EXTERNAL_URL", "https://a.onrender.com")],
        Some("https://a.onrender.com"),
    ),
    (
        "Railway",
        &[
            ("RAILWAY_ENVIRONMENT", "production"),
            ("RAILWAY_PROJECT_ID", "x"),
            ("RAILWAY_PUBLIC_DOMAIN", "a.up.railway.app"),
        ],
        Some("https://a.up.railway.app"),
    ),
    ("Railway without a domain", &[("RAILWAY_PROJECT_ID", "x")], None),
    (
        "Vercel, production",
        &[
            ("VERCEL", "1"),
            ("VERCEL_ENV", "production"),
            ("VERCEL_PROJECT_PRODUCTION_URL", "a.vercel.app"),
            ("VERCEL_URL", "a-123.vercel.app"),
        ],
        Some("https://a.vercel.app"),
    ),
    (
        "Vercel, a branch",
        &[
            ("VERCEL", "1"),
            ("VERCEL_ENV", "preview"),
            ("VERCEL_PROJECT_PRODUCTION_URL", "a.vercel.app"),
            ("VERCEL_BRANCH_URL", "a-git-b.vercel.app"),
            ("VERCEL_URL", "a-123.vercel.app"),
        ],
        Some("https://a-git-b.vercel.app"),
    ),
    (
        "Vercel, a deployment",
        &[("VERCEL", "1"), ("VERCEL_ENV", "preview"), ("VERCEL_URL", "a-123.vercel.app")],
        Some("https://a-123.vercel.app"),
    ),
    ("Hugging Face", &[("SPACE_ID", "me/a"), ("SPACE_HOST", "me-a.hf.space")], Some("https://me-a.hf.space")),
    (
        "Replit, published",
        &[
            ("REPL_ID", "1"),
            ("REPLIT_DEPLOYMENT", "1"),
            ("REPLIT_DOMAINS", "a.replit.app,b.example.com"),
            ("REPLIT_DEV_DOMAIN", "dev.replit.dev"),
        ],
        Some("https://a.replit.app"),
    ),
    (
        "Replit, the workspace",
        &[("REPL_ID", "1"), ("REPLIT_DOMAINS", "dev.replit.dev"), ("REPLIT_DEV_DOMAIN", "dev.replit.dev")],
        Some("https://dev.replit.dev"),
    ),
    ("Koyeb", &[("KOYEB_PUBLIC_DOMAIN", "a.koyeb.app")], Some("https://a.koyeb.app")),
    ("Fly.io", &[("FLY_APP_NAME", "a")], Some("https://a.fly.dev")),
    ("Cloud Run", &[("K_SERVICE", "a")], None),
];

fn load(variables: &[(&str, &str)]) -> Config {
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    Config::load(&lookup, std::iter::empty()).unwrap_or_else(|problems| panic!("{problems}"))
}

#[actix_web::test]
async fn each_platforms_variables_give_the_document_its_address() {
    let poison = [("x-forwarded-host", "evil.example.com"), ("x-forwarded-proto", "https")];
    for (name, variables, url) in PLATFORMS {
        let app = spawn(variables).await;
        assert!(app.address.ip().is_unspecified(), "{name} listens on {}", app.address);
        // A platform without a word of its address is asked by its own host, and believes no more.
        let answer = app.call("GET", "/openapi.json", if url.is_some() { &poison } else { &[] }, None).await;
        let server = answer.json()["servers"][0]["url"].as_str().map(String::from).expect("a server");
        match url {
            Some(url) => assert_eq!(server, *url, "{name}"),
            None => assert!(server.ends_with(&format!(":{}", app.address.port())), "{name}: {server}"),
        }
        let own = [variables, &[("PUBLIC_URL", "https://my.example.com/")][..]].concat();
        assert_eq!(load(&own).public.url.as_deref(), Some("https://my.example.com"), "{name}");
    }
}

#[test]
fn each_platform_decides_where_the_service_listens() {
    for (name, variables, _) in PLATFORMS {
        let listen = load(variables).listen;
        assert_eq!((listen.host.to_string().as_str(), listen.port), ("0.0.0.0", 8080), "{name}");
        let listen = load(&[variables, &[("PORT", "10000")][..]].concat()).listen;
        assert_eq!((listen.host.to_string().as_str(), listen.port), ("0.0.0.0", 10000), "{name}");
        let listen = load(&[variables, &[("HOST", "127.0.0.1")][..]].concat()).listen;
        assert!(listen.host.is_loopback(), "{name}: HOST wins");
    }
    assert!(load(&[]).listen.host.is_loopback(), "no platform");
}

#[test]
fn of_several_platforms_the_order_decides() {
    // Outer platforms run images that were made for others, and hand variables on.
    let order =
        ["Render", "Railway", "Vercel, production", "Hugging Face", "Replit, published", "Koyeb", "Fly.io"];
    let of = |name: &str| PLATFORMS.iter().find(|(known, ..)| *known == name).expect(name);
    for (index, name) in order.iter().enumerate() {
        let later = order[index..].iter().rev().flat_map(|name| of(name).1.iter().copied());
        let config = load(&later.collect::<Vec<_>>());
        assert_eq!(config.public.url.as_deref(), of(name).2, "{name}");
    }
}

#[actix_web::test]
async fn without_a_disk_the_service_starts_and_says_what_is_missing() {
    let keys = format!("tests:{KEY}");
    for (variables, words) in [
        (&[("VERCEL", "1"), ("DATA_DIR", "")][..], "forgotten at a restart"),
        (&[("K_SERVICE", "a"), ("DATA_DIR", "")][..], "forgotten at a restart"),
        (&[("RENDER", "true")][..], "Render wipes this disk"),
    ] {
        let mut all = vec![("GATEWAY_API_KEYS", keys.as_str()), ("PORT", "0"), ("LOG_FORMAT", "text")];
        all.extend_from_slice(variables);
        let lines = tokio::task::spawn_blocking({
            let all: Vec<(String, String)> =
                all.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            move || {
                let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let mut process = Process::start(&[], &all);
                let mut lines = process.lines_until("key");
                lines.extend(process.lines_until("note"));
                // The second note, where there are two.
                if !lines.iter().any(|line| line.contains("DATABASE_URL")) {
                    lines.extend(process.lines_until("note"));
                }
                assert_eq!(process.stop(), Some(0));
                lines
            }
        });
        let lines = lines.await.expect("it runs").join("\n");
        assert!(lines.contains(words) && lines.contains("set DATABASE_URL"), "{lines}");
    }
}
