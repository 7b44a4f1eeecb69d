//! `backup` and `restore`: the store as one file, beside a running service and without tools.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;
use serde_json::json;

use crate::helpers::{KEY, call, post, temporary_folder};
use crate::running::Process;

/// A service on a store in this folder, before the demo.
fn serve(folder: &str) -> Process {
    Process::start(&[("DATA_DIR", folder), ("GATEWAY_API_KEYS", &format!("tests:{KEY}"))])
}

/// Runs a command on the store in this folder.
pub fn run(folder: &str, arguments: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Output {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
    command
        .args(arguments)
        .env_clear()
        .env("DATA_DIR", folder)
        .env("PORT", "0")
        .envs(variables.iter().copied());
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    // A command that refuses reads nothing.
    let _ = child.stdin.take().expect("its input").write_all(input);
    child.wait_with_output().expect("it ends")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sees that a command did not do its work, and told this.
pub fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
}

pub fn done(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

pub async fn turn(service: &Process, message: &str, conversation: &str) -> String {
    let body = json!({"message": message, "conversation_id": conversation}).to_string();
    let answer = post(service.address, "/api/chat", KEY, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["conversation_id"].as_str().expect("a conversation").into()
}

/// How many messages a conversation has; none where there is no such conversation.
pub async fn messages(service: &Process, conversation: &str) -> usize {
    let path = format!("/api/conversations/{conversation}");
    let answer = call(service.address, "GET", &path, &[("x-api-key", KEY)], None).await;
    answer.json()["messages"].as_array().map_or(0, Vec::len)
}

/// A store with one conversation, a backup of it, and the conversation's id.
async fn backed_up() -> (String, Vec<u8>, String) {
    let folder = temporary_folder();
    let service = serve(&folder);
    let conversation = turn(&service, "first", "").await;
    let output = run(&folder, &["backup", "-"], &[], b"");
    done(&output);
    drop(service);
    (folder, output.stdout, conversation)
}

fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[actix_web::test]
async fn a_backup_beside_a_running_service_holds_every_turn_that_was_told() {
    let (folder, elsewhere) = (temporary_folder(), temporary_folder());
    let service = serve(&folder);
    let conversation = turn(&service, "first", "").await;
    let file = format!("{folder}/copy.db");
    for turns in 1..=2 {
        // The second one replaces the first.
        done(&run(&folder, &["backup", "copy.db"], &[], b""));
        assert_eq!(messages(&service, &conversation).await, 2 * turns);
        if turns == 1 {
            turn(&service, "second", &conversation).await;
        }
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(!Path::new(&format!("{file}-wal")).exists());
    done(&run(&elsewhere, &["restore", &file], &[], b""));
    let restored = serve(&elsewhere);
    assert_eq!(messages(&restored, &conversation).await, 4);
    turn(&restored, "third", &conversation).await;
    assert_eq!(messages(&restored, &conversation).await, 6);
}

#[actix_web::test]
async fn a_backup_goes_through_pipes() {
    let (_, bytes, conversation) = backed_up().await;
    let folder = temporary_folder();
    done(&run(&folder, &["restore", "-"], &[], &bytes));
    assert_eq!(names(&folder), ["mirrorgate.db", "mirrorgate.db.lock"]);
    assert_eq!(messages(&serve(&folder), &conversation).await, 2);
}

#[actix_web::test]
async fn a_store_is_not_replaced_while_it_is_served_nor_unasked() {
    let (folder, bytes, conversation) = backed_up().await;
    let mut service = serve(&folder);
    turn(&service, "second", &conversation).await;
    for arguments in [&["restore", "-"][..], &["restore", "-", "--force"]] {
        refused(&run(&folder, arguments, &[], &bytes), 1, &["process ", "serves from", "hint: stop it"]);
    }
    service.signal("KILL");
    service.ended().await;
    // A killed service leaves the newest turn in the log alone.
    assert!(names(&folder).contains(&"mirrorgate.db-wal".to_string()));
    refused(&run(&folder, &["restore", "-"], &[], &bytes), 1, &["there is a store already", "--force"]);
    assert_eq!(messages(&serve(&folder), &conversation).await, 4);
    done(&run(&folder, &["restore", "-", "--force"], &[], &bytes));
    assert_eq!(names(&folder), ["mirrorgate.db", "mirrorgate.db.lock"]);
    assert_eq!(messages(&serve(&folder), &conversation).await, 2, "the old log is not part of the backup");
}

#[actix_web::test]
async fn what_is_no_whole_backup_leaves_the_store_as_it_is() {
    let (folder, bytes, conversation) = backed_up().await;
    let foreign = format!("{folder}/foreign.db");
    Connection::open(&foreign).expect("a database").execute_batch("CREATE TABLE t (x)").expect("a table");
    let newer = format!("{folder}/newer.db");
    std::fs::write(&newer, &bytes).expect("written");
    let step = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                VALUES (9999, 'from the future', 1, x'00', 0)";
    Connection::open(&newer).expect("a database").execute_batch(step).expect("a step");
    let read = |path: &str| std::fs::read(path).expect("a file");
    for (input, words) in [
        (b"no database at all".repeat(100), "no SQLite database"),
        (Vec::new(), "no database of mirrorgate"),
        (bytes[..bytes.len() / 2].to_vec(), "damaged"),
        (read(&foreign), "no database of mirrorgate"),
        (read(&newer), "storage_newer"),
    ] {
        refused(&run(&folder, &["restore", "-", "--force"], &[], &input), 1, &[words, "hint: "]);
    }
    std::fs::write(format!("{folder}/copied.db"), &bytes).expect("written");
    std::fs::write(format!("{folder}/copied.db-wal"), "more").expect("written");
    refused(&run(&folder, &["restore", "copied.db", "--force"], &[], b""), 1, &["-wal"]);
    refused(&run(&folder, &["restore", "nothing.db", "--force"], &[], b""), 1, &["nothing.db"]);
    assert!(!names(&folder).iter().any(|name| name.ends_with("restored")), "{:?}", names(&folder));
    assert_eq!(messages(&serve(&folder), &conversation).await, 2);
}

#[actix_web::test]
async fn a_backup_goes_over_no_store_and_nothing_but_a_file() {
    let (folder, _, conversation) = backed_up().await;
    refused(&run(&folder, &["backup", "mirrorgate.db"], &[], b""), 2, &["the store itself"]);
    refused(&run(&folder, &["restore", "mirrorgate.db", "--force"], &[], b""), 2, &["the store itself"]);
    refused(&run(&folder, &["backup", "/dev/null"], &[], b""), 2, &["no plain file"]);
    refused(&run(&folder, &["backup", "/nowhere/at/all/x"], &[], b""), 1, &["/nowhere/at/all/x"]);
    refused(&run(&temporary_folder(), &["backup", "-"], &[], b""), 1, &["there is no file"]);
    assert_eq!(messages(&serve(&folder), &conversation).await, 2);
}

#[test]
fn other_stores_have_tools_of_their_own_or_nothing_to_keep() {
    let folder = temporary_folder();
    for (arguments, words) in [(["backup", "-"], "pg_dump"), (["restore", "-"], "pg_restore")] {
        let postgres = [("DATABASE_URL", "postgres://u:secret@db.example.com/x")];
        let output = run(&folder, &arguments, &postgres, b"");
        refused(&output, 78, &["PostgreSQL at db.example.com", words]);
        assert!(!stderr(&output).contains("secret"));
        refused(&run(&folder, &arguments, &[("DATABASE_URL", "memory:")], b""), 78, &["memory", "DATA_DIR"]);
    }
}
