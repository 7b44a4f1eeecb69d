//! `mirrorgate serve --tunnel`, with programs that only look like tunnels.
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::helpers::temporary_folder;
use crate::process::Process;

/// Makes a folder with a program of this name; it notes its process id and its arguments there.
fn program(name: &str, script: &str) -> String {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = Path::new(&folder).join(name);
    let text = format!("#!/bin/sh\necho $$ > {folder}/pid\necho \"$@\" > {folder}/arguments\n{script}\n");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    folder
}

fn read(folder: &str, name: &str) -> String {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(Path::new(folder).join(name)).unwrap_or_default();
        if text.ends_with('\n') {
            return text.trim().to_string();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{name} is not written");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_running(id: &str) -> bool {
    // A child that has ended and was waited for is no process any more.
    Command::new("kill")
        .args(["-0", id])
        .stderr(std::process::Stdio::null())
        .status()
        .expect("kill runs")
        .success()
}

/// Starts the service with this folder alone before the system's own.
fn serve(folder: &str, name: Option<&str>) -> Process {
    let path = format!("{folder}:/usr/bin:/bin");
    let arguments: Vec<&str> = ["serve", "--tunnel"].into_iter().chain(name).collect();
    Process::start(&arguments, &[("PATH", &path), ("PORT", "0")])
}

/// The server of the document that the service at this address gives.
fn server_in_document(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream
        .write_all(b"GET /openapi.json HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let document: serde_json::Value = serde_json::from_str(body).expect("JSON");
    document["servers"][0]["url"].as_str().expect("a server").to_string()
}

#[test]
fn the_tunnels_address_stands_in_the_document_and_the_tunnel_ends_with_the_service() {
    let ngrok = r#"echo '{"lvl":"info","msg":"starting web service","addr":"127.0.0.1:4040"}'
echo '{"lvl":"info","msg":"started tunnel","url":"https://a1.ngrok-free.app"}'
exec sleep 60"#;
    let tailscale = "echo 'Available on the internet:'\necho\necho 'https://me.tail1.ts.net/'\nexec sleep 60";
    for (name, script, url, asked) in [
        ("ngrok", ngrok, "https://a1.ngrok-free.app", None),
        ("tailscale", tailscale, "https://me.tail1.ts.net", Some("tailscale")),
    ] {
        let folder = program(name, script);
        let mut process = serve(&folder, asked);
        let lines = process.lines_until("key").join("\n");
        assert!(lines.contains(&format!("tunnel     {url} by {name}")), "{lines}");
        assert!(lines.contains(&format!("{url}/openapi.json  <- import this URL")), "{lines}");
        let address =
            lines.split("listens on ").nth(1).and_then(|rest| rest.lines().next()).expect("an address");
        assert!(read(&folder, "arguments").contains(address), "it leads to the service");
        assert_eq!(server_in_document(address), url);
        let id = read(&folder, "pid");
        assert!(is_running(&id));
        assert_eq!(process.stop(), Some(0));
        assert!(!is_running(&id), "{name} runs on");
    }
}

#[test]
fn a_tunnel_gets_no_secret_and_ends_with_a_service_that_is_killed() {
    let script = "env > $(dirname \"$0\")/environment; echo >> $(dirname \"$0\")/environment\n\
                  echo 'https://me.tail1.ts.net/'\nexec sleep 60";
    let folder = program("tailscale", script);
    let path = format!("{folder}:/usr/bin:/bin");
    let secrets = [("UPSTREAM_URL", "http://127.0.0.1:9"), ("UPSTREAM_API_KEY", "sk-a-secret-of-the-mirror")];
    let rest = [("PATH", path.as_str()), ("PORT", "0"), ("TS_SOCKET", "/its/own")];
    let variables: Vec<_> = rest.into_iter().chain(secrets).collect();
    let mut process = Process::start(&["serve", "--tunnel", "tailscale"], &variables);
    process.lines_until("key");
    let environment = read(&folder, "environment");
    assert!(environment.contains("TS_SOCKET=/its/own"), "{environment}");
    assert!(!environment.contains("UPSTREAM") && !environment.contains("sk-a-secret"), "{environment}");
    let id = read(&folder, "pid");
    assert!(is_running(&id));
    process.kill();
    let start = Instant::now();
    while is_running(&id) {
        assert!(start.elapsed() < Duration::from_secs(5), "the tunnel outlives the service");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn cloudflareds_address_comes_from_its_metrics_and_its_limits_are_told() {
    let folder = program("cloudflared", "exec sleep 60");
    let mut process = serve(&folder, Some("cloudflared"));
    let arguments = read(&folder, "arguments");
    let metrics =
        arguments.split_whitespace().skip_while(|word| *word != "--metrics").nth(1).expect("an address");
    let listener = TcpListener::bind(metrics).expect("the port is free");
    std::thread::spawn(move || {
        // First it has no name yet.
        for body in ["{\"hostname\":\"\"}", "{\"hostname\":\"a-b-c.trycloudflare.com\"}"] {
            let (mut stream, _) = listener.accept().expect("a question");
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
        }
    });
    let lines = process.lines_until("note").join("\n");
    assert!(lines.contains("https://a-b-c.trycloudflare.com by cloudflared"), "{lines}");
    assert!(lines.contains("no event streams"), "{lines}");
    assert_eq!(process.stop(), Some(0));
    assert!(!is_running(&read(&folder, "pid")));
}

#[test]
fn without_a_tunnel_it_says_what_to_install_and_a_failed_one_says_why() {
    let run = |folder: &str, name: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_mirrorgate"))
            .args(["serve", "--tunnel"])
            .args(Some(name).filter(|name| !name.is_empty()))
            .env_clear()
            .env("PATH", folder)
            .env("DATA_DIR", folder)
            .current_dir(folder)
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let empty = program("something-else", "");
    let (code, text) = run(&empty, "");
    assert_eq!(code, Some(2));
    for name in ["cloudflared", "ngrok", "tailscale", "hint: install"] {
        assert!(text.contains(name), "{text}");
    }
    let (code, text) = run(&empty, "ngrok");
    assert!(
        code == Some(2) && text.contains("ngrok is not installed") && !text.contains("tailscale"),
        "{text}"
    );
    let failing = program("ngrok", "echo '{\"lvl\":\"eror\",\"err\":\"authentication failed\"}'\nexit 1");
    let (code, text) = run(&failing, "ngrok");
    assert!(code == Some(1) && text.contains("authentication failed"), "{text}");
    let (code, _) = run(&empty, "localtunnel");
    assert_eq!(code, Some(2));
}
