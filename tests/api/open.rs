//! A gateway without keys, `GATEWAY_AUTH=none`: for programs of this machine alone.

use std::process::Command;

use crate::helpers::temporary_folder;

/// The exit code and the words of a start with these arguments and settings.
fn refused(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command.args(arguments).env_clear().env("DATA_DIR", &folder).current_dir(&folder);
    command.envs([("PORT", "0"), ("GATEWAY_AUTH", "none")]).envs(settings.iter().copied());
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn it_does_not_start_where_others_can_come() {
    for (arguments, settings, named) in [
        (&[][..], &[("HOST", "0.0.0.0")][..], "GATEWAY_AUTH: "),
        (&[], &[("HOST", "::")], "GATEWAY_AUTH: "),
        (&[], &[("HOST", "192.0.2.1")], "GATEWAY_AUTH: "),
        (&[], &[("PUBLIC_URL", "https://a.example.com")], "PUBLIC_URL: "),
        (&[], &[("PUBLIC_URL", "http://192.168.1.5:8080")], "PUBLIC_URL: "),
        (&[], &[("PUBLIC_URL", "http://localhost.a.example.com")], "PUBLIC_URL: "),
        (&[], &[("PUBLIC_URL", "http://host.docker.internal:8080")], "PUBLIC_URL: "),
        (&[], &[("TRUST_PROXY_HEADERS", "true")], "TRUST_PROXY_HEADERS: "),
        (&[], &[("HOST", "127.0.0.1"), ("RENDER", "true")], "Render"),
        (&[], &[("HOST", "127.0.0.1"), ("RAILWAY_PUBLIC_DOMAIN", "a.example.com")], "Railway"),
        (&[], &[("HOST", "127.0.0.1"), ("K_SERVICE", "a")], "Cloud Run"),
        (&["serve", "--tunnel"], &[], "--tunnel: "),
        (&["serve", "--tunnel", "ngrok"], &[], "--tunnel: "),
        (&["serve", "--trust-proxy-headers", "yes"], &[], "TRUST_PROXY_HEADERS: "),
    ] {
        let (code, text) = refused(arguments, settings);
        assert_eq!(code, Some(78), "{arguments:?} {settings:?}: {text}");
        assert!(text.contains(named) && text.contains("1 problem in"), "{arguments:?} {settings:?}: {text}");
        assert!(text.contains("hint: set GATEWAY_API_KEYS and remove GATEWAY_AUTH"), "{text}");
    }
}

#[test]
fn all_that_lets_others_in_is_told_at_once() {
    let settings = [
        ("HOST", "0.0.0.0"),
        ("PUBLIC_URL", "https://a.example.com"),
        ("TRUST_PROXY_HEADERS", "true"),
        ("RENDER", "true"),
        ("RENDER_EXTERNAL_URL", "https://b.example.com"),
    ];
    let (code, text) = refused(&["serve", "--tunnel"], &settings);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("5 problems"), "{text}");
    for advice in ["HOST=127.0.0.1", "remove PUBLIC_URL", "remove TRUST_PROXY_HEADERS", "without --tunnel"] {
        assert!(text.contains(advice), "{advice}: {text}");
    }
    // A value that is not understood besides is an ordinary mistake.
    let (code, text) = refused(&["serve", "--tunnel"], &[("LOG_FORMAT", "xml")]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--tunnel: ") && text.contains("LOG_FORMAT: "), "{text}");
}
