//! The program in a terminal: what it is asked by its arguments, and what it tells of its settings.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::helpers::temporary_folder;
use crate::process::Process;
use crate::upstream::{Fake, chunked, response, send};

const LINES: &str = "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\",\"responseId\":\"r1\"}}}}\n";

fn folder() -> String {
    let folder = temporary_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs the program in a folder with these variables alone.
async fn run(folder: &str, arguments: &[&str], variables: &[(&str, &str)], input: &'static [u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command.args(arguments).env_clear().env("DATA_DIR", folder).current_dir(folder);
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().expect("the program runs");
        // A program that has seen enough may close it.
        let _ = child.stdin.take().expect("an input").write_all(input);
        child.wait_with_output().expect("the program ends")
    };
    tokio::task::spawn_blocking(run).await.expect("a thread")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[actix_web::test]
async fn what_is_piped_in_stands_below_the_question_or_is_it() {
    let fake = Fake::start(|request| match request.line.starts_with("POST") {
        true => send(chunked("application/x-ndjson", LINES)),
        false => send(response("200 OK", "application/json", "{}")),
    })
    .await;
    let folder = folder();
    let settings = [("UPSTREAM_URL", fake.url.as_str()), ("UPSTREAM_PROTOCOL", "web-chat")];
    let cases: [(&[&str], &[u8], &str); 4] = [
        (
            &["chat", "Summarise this"],
            "\u{feff}鏡\nsecond line\n".as_bytes(),
            "Summarise this\n\n鏡\nsecond line",
        ),
        (&["chat", "Hello"], b"", "Hello"),
        (&["chat"], b"From a pipe\n", "From a pipe"),
        (&["chat", "-"], b"From a pipe\n", "From a pipe"),
    ];
    for (arguments, input, message) in cases {
        let output = run(&folder, arguments, &settings, input).await;
        assert!(output.status.success() && text(&output.stdout) == "Hi\n", "{output:?}");
        let asked = fake.requests().into_iter().rfind(|request| request.line.starts_with("POST"));
        assert_eq!(asked.expect("a question").json()["message"], message);
    }
    let count = fake.requests().len();
    for (input, words, code) in
        [(&b" \n"[..], "the question is empty", 2), (b"\xff\xfe\x00", "no text in UTF-8", 1)]
    {
        let output = run(&folder, &["chat"], &settings, input).await;
        assert_eq!(output.status.code(), Some(code));
        assert!(text(&output.stderr).contains(words), "{output:?}");
    }
    assert_eq!(fake.requests().len(), count, "nothing was asked");
}

#[actix_web::test]
async fn the_short_help_is_one_screen_and_the_long_one_is_whole() {
    let folder = folder();
    let short = text(&run(&folder, &["-h"], &[], b"").await.stdout);
    let count = short.lines().count();
    assert!((24..=40).contains(&count), "{count} lines:\n{short}");
    assert!(short.lines().all(|line| line.chars().count() <= 100), "{short}");
    for word in ["serve", "chat", "doctor", "completions", "UPSTREAM_URL", "--help"] {
        assert!(short.contains(word), "{word} is missing:\n{short}");
    }
    let long = text(&run(&folder, &["--help"], &[], b"").await.stdout);
    for setting in mirrorgate::config::settings::all() {
        assert!(long.contains(&format!("--{} ", setting.flag())), "{}", setting.name);
    }
    let of_command = text(&run(&folder, &["key", "new", "-h"], &[], b"").await.stdout);
    assert!(of_command.contains("--rpm") && of_command.lines().count() < 40, "{of_command}");
}

#[actix_web::test]
async fn each_shell_gets_a_script_that_completes_commands_and_flags() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = run(&folder, &["completions", shell], &[], b"").await;
        let script = text(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        for word in ["import-curl", "upstream-url", "deep"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
        assert!(!script.contains("tunnel-hold"), "{shell} offers what is the program's own");
        std::fs::write(format!("{folder}/{shell}"), script).expect("written");
    }
    assert_eq!(run(&folder, &["completions", "tcsh"], &[], b"").await.status.code(), Some(2));
    let checked = Command::new("bash").args(["-n", &format!("{folder}/bash")]).status();
    assert!(checked.is_ok_and(|status| status.success()), "bash reads its script");
}

#[actix_web::test]
async fn the_version_names_the_commit() {
    let folder = folder();
    let version = async |flag: &str| text(&run(&folder, &[flag], &[], b"").await.stdout);
    let commit = mirrorgate::version::COMMIT.map(|commit| format!(" ({commit})")).unwrap_or_default();
    assert_eq!(version("--version").await, format!("mirrorgate {}{commit}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(version("-V").await, format!("mirrorgate {}\n", env!("CARGO_PKG_VERSION")));
}

/// What `healthcheck`, which reads all settings and ends, says of a file `.env`.
async fn told(file: &[u8], variables: &[(&str, &str)]) -> String {
    let folder = folder();
    std::fs::write(format!("{folder}/.env"), file).expect("written");
    let output = run(&folder, &["healthcheck"], variables, b"").await;
    text(&output.stderr)
}

#[actix_web::test]
async fn mistakes_in_a_file_of_settings_are_told_with_their_lines() {
    // Nothing listens there, so that each ends at once.
    let port = "PORT=1\n";
    let cases: [(Vec<u8>, &[&str]); 7] = [
        (
            format!("{port}UPSTREM_URL=https://m.example.com\n").into(),
            &["line 2: UPSTREM_URL", "did you mean UPSTREAM_URL?"],
        ),
        (
            format!("{port}upstream_cookie=a=b\n").into(),
            &["line 2: upstream_cookie", "did you mean UPSTREAM_COOKIE?"],
        ),
        (format!("{port}UPSTREAM_TOKEN=abc\n").into(), &["line 2: UPSTREAM_TOKEN", "mirrorgate --help"]),
        (
            format!("{port}DATA_DIR=a\n\nDATA_DIR=b\n").into(),
            &["DATA_DIR stands on line 2 and on line 4: the last one holds"],
        ),
        (
            format!("{port}A=\u{4e2d}\n").encode_utf16().flat_map(u16::to_le_bytes).collect(),
            &["is written in UTF-16 LE"],
        ),
        ([port.as_bytes(), b"A=\xa4\xa4\n"].concat(), &["line 2", "no UTF-8"]),
        (format!("{port}MIRRORGATE_UPSTREM_URL=x\n").into(), &["rename it to UPSTREAM_URL"]),
    ];
    for (file, words) in cases {
        let told = told(&file, &[]).await;
        assert!(words.iter().all(|word| told.contains(word)), "{words:?} is not told: {told}");
        assert!(!told.contains("abc") && !told.contains("m.example.com"), "no value is shown: {told}");
    }
    let good = told(b"# ours\nPORT=1\nPOSTGRES_PASSWORD=x\nADMIN_KEY_FILE=\n", &[]).await;
    assert!(!good.contains("warning") && good.contains("nothing healthy at 127.0.0.1:1"), "{good}");
    let variable =
        told(b"PORT=1\n", &[("GATEWAY_API_KEY", "k3y-of-the-tests-9f2c"), ("HOSTNAME", "x")]).await;
    assert!(
        variable.contains("the variable GATEWAY_API_KEY") && variable.contains("GATEWAY_API_KEYS?"),
        "{variable}"
    );
    assert_eq!(variable.matches("warning").count(), 1, "{variable}");
}

#[test]
fn the_start_says_which_file_was_read() {
    let folder = folder();
    let path = format!("{folder}/.env");
    std::fs::write(&path, "PORT=0\nDEFAULT_MODEL=m\nOTHERS=1\n").expect("written");
    let mut process = Process::start_in(&folder, &[], &[]);
    let lines = process.lines_until("settings");
    assert!(
        lines.last().is_some_and(|line| line.contains(&path) && line.contains("(2 settings)")),
        "{lines:#?}"
    );
    assert_eq!(process.stop(), Some(0));
}
