//! `mirrorgate import-curl`, from the browser's text to a mirror that is asked with it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::helpers::temporary_folder;
use crate::upstream::{Fake, chunked, response, send};

const LINES: &str = "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\"}}}}\n";

/// Runs the program in a folder, with nothing in its environment.
fn run(folder: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mirrorgate"))
        .args(arguments)
        .env_clear()
        .env("DATA_DIR", folder)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // A program that has seen enough may close it.
    let _ = child.stdin.take().expect("an input").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

fn folder() -> String {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[actix_web::test]
async fn what_it_prints_asks_the_mirror_as_the_browser_did() {
    let fake = Fake::start(|request| match request.line.starts_with("POST") {
        true => send(chunked("application/x-ndjson", LINES)),
        false => send(response("200 OK", "application/json", "{}")),
    })
    .await;
    let copied = format!(
        "curl '{}/rest/app-chat/conversations/new' \\\n  -H 'accept: */*' \\\n  -b 'sso=it\"s; a=$b' \\\n  -H 'user-agent: Mozilla/5.0 (X11)' \\\n  -H 'x-request-id: 2f1c9d1e-8b1a-4c2d-9e3f-0a1b2c3d4e5f' \\\n  --data-raw $'{{\"temporary\":true,\"note\":\"don\\'t\",\"modelName\":\"m-4\",\"message\":\"old words\"}}'\n",
        fake.url
    );
    let asked = tokio::task::spawn_blocking(move || {
        let folder = folder();
        let imported = run(&folder, &["import-curl"], &copied);
        assert!(imported.status.success(), "{imported:?}");
        let notes = String::from_utf8_lossy(&imported.stderr).into_owned();
        assert!(notes.contains("left out the header `accept`") && notes.contains("`message`"), "{notes}");
        assert!(!notes.contains("sso=") && !notes.contains("old words"), "{notes}");
        std::fs::write(Path::new(&folder).join(".env"), &imported.stdout).expect("written");
        run(&folder, &["chat", "Hello"], "")
    })
    .await
    .expect("it ends");
    assert!(asked.status.success(), "{asked:?}");
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "Hi\n");
    let requests = fake.requests();
    let request = requests.last().expect("a request");
    assert_eq!(request.header("user-agent"), Some("Mozilla/5.0 (X11)"));
    let mut cookies: Vec<_> = request.header("cookie").expect("cookies").split("; ").collect();
    cookies.sort_unstable();
    assert_eq!(cookies, ["a=$b", "sso=it\"s"]);
    assert_ne!(request.header("x-request-id"), Some("2f1c9d1e-8b1a-4c2d-9e3f-0a1b2c3d4e5f"));
    let body = request.json();
    assert_eq!((&body["temporary"], &body["note"]), (&true.into(), &"don't".into()));
    assert_eq!((&body["modelName"], &body["message"]), (&"m-4".into(), &"Hello".into()));
}

#[test]
fn bad_input_ends_with_2_and_a_hint() {
    let folder = folder();
    std::fs::write(Path::new(&folder).join("copied.txt"), "fetch(\"https://m.example.com\")")
        .expect("written");
    for (arguments, input) in [
        (&["import-curl"][..], "nonsense"),
        (&["import-curl", "-"], "curl 'https://m.example.com/favicon.ico'"),
        (&["import-curl", "copied.txt"], ""),
        (&["import-curl", "missing.txt"], ""),
    ] {
        let output = run(&folder, arguments, input);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.starts_with("error: ") && text.contains("\n  hint: ") && output.stdout.is_empty(),
            "{text}"
        );
    }
}
