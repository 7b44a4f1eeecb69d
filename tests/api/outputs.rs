//! Outputs that nobody reads, and a terminal that closes.
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::helpers::{KEY, temporary_folder};

/// The program in this folder, with this one beginning of a command line before it.
fn program(before: &[&str], folder: &str, arguments: &[&str]) -> Command {
    std::fs::create_dir_all(folder).expect("a folder");
    let own = env!("CARGO_BIN_EXE_mirrorgate");
    let words: Vec<&str> = before.iter().copied().chain([own]).chain(arguments.iter().copied()).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().env("PATH", "/usr/bin:/bin").env("PORT", "0");
    command.env("DATA_DIR", folder).current_dir(folder).stdin(Stdio::null());
    command
}

/// The program's whole output, with standard output and error as they are set.
fn ended(mut command: Command, within: Duration) -> Output {
    let mut child = command.spawn().expect("it runs");
    let code = wait(&mut child, within);
    let mut output = Output { status: code, stdout: Vec::new(), stderr: Vec::new() };
    child.stdout.take().map(|mut pipe| pipe.read_to_end(&mut output.stdout));
    child.stderr.take().map(|mut pipe| pipe.read_to_end(&mut output.stderr));
    output
}

fn wait(child: &mut Child, within: Duration) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if start.elapsed() > within {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
}

/// The address in the first line of what a service says.
fn address(output: &mut impl Read) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with('\n') {
        assert_eq!(output.read(&mut byte).expect("its first line"), 1, "it ended: {text}");
        text.push(byte[0] as char);
    }
    text.trim().rsplit(' ').next().expect("an address").to_string()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let mut command = program(&[], &temporary_folder(), &[]);
    command.env("GATEWAY_API_KEYS", KEY).env("METRICS_PUBLIC", "true");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let address = address(child.stdout.as_mut().expect("its output"));
    let mut stream = TcpStream::connect(&address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let one = format!("GET /api/nothing HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n");
    // The pipe holds 64 KiB, and the service keeps one MiB more.
    for _ in 0..60 {
        stream.write_all(one.repeat(100).as_bytes()).expect("sent");
        let mut answers = 0;
        while answers < 100 {
            let mut chunk = [0; 64 << 10];
            let count = stream.read(&mut chunk).expect("answers");
            answers += chunk[..count].windows(13).filter(|piece| piece == b"HTTP/1.1 404 ").count();
        }
    }
    let metrics = get(&address, "/metrics");
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("mirrorgate_log_lines_dropped_total "));
    assert!(dropped.is_some_and(|count| count != "0"), "{metrics}");
    signal(&child, "TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn a_key_that_nobody_sees_is_not_kept() {
    let folder = temporary_folder();
    let mut unseen = program(&[], &folder, &[]);
    unseen.stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(ended(unseen, Duration::from_secs(10)).status.code(), Some(74));
    let mut unseen = program(&[], &folder, &["key", "new", "dify"]);
    unseen.stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(ended(unseen, Duration::from_secs(10)).status.code(), Some(1));
    let mut list = program(&[], &folder, &["key", "list"]);
    list.stdout(Stdio::piped()).stderr(Stdio::null());
    assert_eq!(String::from_utf8_lossy(&ended(list, Duration::from_secs(10)).stdout), "");
    // Where standard output is thrown away, standard error shows it.
    let mut command = program(&[], &folder, &["key", "new", "dify"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let output = ended(command, Duration::from_secs(10));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("mg_"), "{output:?}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    for arguments in [&["chat", "hello"][..], &["key", "list"]] {
        let mut command = program(&[], &temporary_folder(), arguments);
        command.env("GATEWAY_API_KEYS", format!("a:{KEY}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        drop(child.stdout.take());
        let status = wait(&mut child, Duration::from_secs(10));
        let mut text = String::new();
        child.stderr.take().expect("its log").read_to_string(&mut text).expect("text");
        assert!(status.success() && !text.contains("defect"), "{arguments:?}: {status}: {text}");
    }
}

#[test]
fn a_terminal_that_closes_ends_the_service_in_order_unless_it_was_to_outlive_it() {
    for (before, ends) in [(&[][..], true), (&["nohup"], false)] {
        let mut command = program(before, &temporary_folder(), &[]);
        command.env("GATEWAY_API_KEYS", KEY).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it runs");
        let address = address(child.stdout.as_mut().expect("its output"));
        signal(&child, "HUP");
        if ends {
            assert_eq!(wait(&mut child, Duration::from_secs(10)).code(), Some(0));
        } else {
            assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
            signal(&child, "TERM");
            assert_eq!(wait(&mut child, Duration::from_secs(10)).code(), Some(0));
        }
    }
}

#[test]
fn keys_get_limits_in_the_terminal() {
    let folder = temporary_folder();
    let run = |arguments: &[&str]| {
        let arguments: Vec<&str> = std::iter::once("key").chain(arguments.iter().copied()).collect();
        let mut command = program(&[], &folder, &arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = ended(command, Duration::from_secs(10));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let limits =
        "new a --expires 30d --models x,y --rpm 60 --parallel 4 --tokens-per-day 200000 --storage 200MiB";
    let (code, first, told) = run(&limits.split(' ').collect::<Vec<_>>());
    assert!(code == Some(0) && first.starts_with("mg_"), "{told}");
    let (_, list, _) = run(&["list"]);
    for part in [
        "models x, y",
        "60 questions a minute",
        "4 at once",
        "200000 tokens a day",
        "209715200 bytes",
        "never used",
    ] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert_eq!(run(&["set", "a", "--rpm", "none", "--models", "none", "--paths", "files"]).0, Some(0));
    let (_, list, _) = run(&["list"]);
    assert!(!list.contains("a minute") && !list.contains("models") && list.contains("4 at once"), "{list}");
    assert!(list.contains("paths files"), "{list}");
    let (code, next, _) = run(&["rotate", "a"]);
    assert!(code == Some(0) && next.starts_with("mg_") && next != first);
    for (arguments, said) in [
        (&["new", "b", "--rpm", "many"][..], "`--rpm`: `many` is no whole number"),
        (&["new", "b", "--expires", "soon"], "such as `30d`"),
        (&["new", "owner"], "is not `owner`"),
        (&["set", "no", "--rpm", "1"], "there is no key `no`"),
        (&["rotate", "owner"], "there is no key"),
    ] {
        let (code, _, told) = run(arguments);
        assert!(code == Some(1) && told.contains(said), "{arguments:?}: {told}");
    }
}
