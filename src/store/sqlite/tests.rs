//! What is written together: each write stands for itself, and the commit for all.

use futures_util::FutureExt;
use futures_util::future::join3;

use super::*;
use crate::store::statement::{Text, text};

const ADD: &Text = text!["INSERT INTO gateway_keys (name, digest, created_at) VALUES ($1, 'd', 0)"];
const NAMES: &Text = text!["SELECT name FROM gateway_keys ORDER BY name"];
/// What it refers to is looked for at the commit.
const LATE: &Text = text!["INSERT INTO late (name) VALUES ('nobody')"];
const LATE_TABLE: &Text =
    text!["CREATE TABLE late (name TEXT REFERENCES gateway_keys DEFERRABLE INITIALLY DEFERRED)"];
const FOREIGN_KEYS: &Text = text!["PRAGMA foreign_keys = ON"];

fn memory() -> Sqlite {
    Sqlite::new(None).expect("a database")
}

fn add(name: &str) -> Statement {
    Statement::new(ADD, [name.into()])
}

async fn names(sqlite: &Sqlite) -> Vec<String> {
    let rows = sqlite.read(Statement::new(NAMES, [])).await.expect("names");
    rows.into_iter().map(|mut row| row.text(0).expect("a name")).collect()
}

#[tokio::test]
async fn a_write_that_fails_is_undone_alone() {
    let sqlite = memory();
    // Polled one after the other before the thread is asked, so that they are committed together.
    let (before, failed, after) = join3(
        sqlite.write([add("before")].into()),
        sqlite.write([add("undone"), add("undone")].into()),
        sqlite.write([add("after"), add("after too")].into()),
    )
    .await;
    before.expect("kept");
    after.expect("kept");
    let failed = failed.expect_err("a name twice");
    assert_eq!((failed.error.kind, failed.undecided), (Kind::StorageUnavailable, false));
    assert_eq!(names(&sqlite).await, ["after", "after too", "before"]);
    assert!(sqlite.write([add("alone"), add("alone")].into()).await.is_err());
    assert_eq!(names(&sqlite).await, ["after", "after too", "before"]);
}

#[tokio::test]
async fn a_commit_that_fails_fails_for_all_in_it() {
    let sqlite = memory();
    sqlite.write([Statement::new(LATE_TABLE, [])].into()).await.expect("a table");
    // Within a transaction it means nothing.
    sqlite.read(Statement::new(FOREIGN_KEYS, [])).await.expect("set");
    let group = [vec![add("fine")], vec![Statement::new(LATE, [])]];
    let outcomes = futures_util::future::join_all(group.map(|batch| sqlite.write(batch.into()))).await;
    assert!(outcomes.iter().any(Result::is_err));
    let kept = names(&sqlite).await;
    assert_eq!(kept.len(), outcomes.iter().filter(|outcome| outcome.is_ok()).count());
    sqlite.write([add("next")].into()).await.expect("kept");
    assert_eq!(names(&sqlite).await.len(), kept.len() + 1);
}

#[tokio::test]
async fn what_depends_on_a_change_is_done_only_after_it() {
    const RENAME: &Text = text!["UPDATE gateway_keys SET name = $1 WHERE name = $2"];
    let sqlite = memory();
    let rename = |from: &str| Statement::new(RENAME, ["new".into(), from.into()]).required();
    let done = sqlite.write([rename("nobody"), add("next")].into()).await.expect("done");
    assert_eq!((done.len(), names(&sqlite).await.len()), (1, 0));
    sqlite.write([add("old")].into()).await.expect("kept");
    let done = sqlite.write([rename("old"), add("next")].into()).await.expect("done");
    assert_eq!((done.len(), names(&sqlite).await), (2, vec!["new".to_string(), "next".into()]));
}

#[tokio::test]
async fn a_write_whose_caller_gave_up_before_it_began_never_begins() {
    let sqlite = memory();
    // The thread is busy with what comes before.
    let long = sqlite.read(Statement::new(
        text!["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT COUNT(*) FROM n"],
        [],
    ));
    let mut long = Box::pin(long);
    assert!(long.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(sqlite.write([add("given up")].into()).now_or_never().is_none());
    sqlite.write([add("next")].into()).await.expect("kept");
    assert_eq!(names(&sqlite).await, ["next"]);
}
