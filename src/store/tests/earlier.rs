//! Databases that earlier versions of the program have made are taken over with what is in them, and
//! those of a newer one are left alone.

use std::path::PathBuf;
use std::str::FromStr;

use rusqlite::Connection;
use secrecy::ExposeSecret;
use tokio_postgres::{Client, NoTls};

use super::super::migrations::{MIGRATIONS, Migration};
use super::*;

/// How many steps of the schema there were when sqlx took them.
const BY_SQLX: usize = 4;

const CONVERSATION: &str = "conv_0f8fad5bd9cb469fa16570867728950e";
const ANSWER: &str = "resp_0f8fad5bd9cb469fa16570867728950e";

/// What each earlier version has kept.
const KEPT: [&str; BY_SQLX] = [
    "INSERT INTO conversations (owner, id, system, turns, created_at, used_at) \
     VALUES ('ann', 'conv_0f8fad5bd9cb469fa16570867728950e', 'S', 1, 5, 6); \
     INSERT INTO turns (owner, id, number, question, answer, partial, created_at) \
     VALUES ('ann', 'conv_0f8fad5bd9cb469fa16570867728950e', 1, 'Q', 'A', 1, 5); \
     INSERT INTO gateway_keys (name, digest, created_at) VALUES ('k', '0123456789abcdef0123456789abcdefrest', 7)",
    "INSERT INTO upstream_sessions (name, version, sealed, changed_at) VALUES ('u', 3, 'sealed', 8)",
    "INSERT INTO continuations (owner, prefix, upstream, upstream_conversation, upstream_response, used_at) \
     VALUES ('ann', 'p', 'u', 'c', 'r', 9); \
     INSERT INTO answers (owner, id, record, finished, alive_until, created_at) \
     VALUES ('ann', 'resp_0f8fad5bd9cb469fa16570867728950e', 'record', 1, 0, 9); \
     INSERT INTO key_usage (owner, requests, prompt_tokens, completion_tokens, estimated, created_at) \
     VALUES ('ann', 1, 2, 3, 0, 9)",
    "SELECT 1",
];

/// A new database at the schema of so many steps, as sqlx left it, with what was kept.
trait Earlier {
    async fn run(&self, text: &str);

    /// What sqlx calls a type of bytes and a literal of this hexadecimal text, and a time with its zone.
    fn words(&self, hex: &str) -> (&'static str, String, &'static str);

    fn location(&self) -> Location;

    async fn make(&self, steps: usize) {
        let (bytes, _, time) = self.words("");
        self.run(&format!(
            "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on {time} NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
             checksum {bytes} NOT NULL, execution_time BIGINT NOT NULL)"
        ))
        .await;
        for (Migration { version, text, .. }, kept) in MIGRATIONS.iter().zip(KEPT).take(steps) {
            let digest = MIGRATIONS[*version as usize - 1].digest();
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let (_, digest, _) = self.words(&hex);
            self.run(text).await;
            self.run(kept).await;
            self.run(&format!(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES ({version}, 'as sqlx names it', TRUE, {digest}, 0)"
            ))
            .await;
        }
    }
}

struct SqliteFile(PathBuf);

impl Earlier for SqliteFile {
    async fn run(&self, text: &str) {
        Connection::open(&self.0).expect("a file").execute_batch(text).expect(text);
    }

    fn words(&self, hex: &str) -> (&'static str, String, &'static str) {
        ("BLOB", format!("x'{hex}'"), "TIMESTAMP")
    }

    fn location(&self) -> Location {
        Location::File(self.0.clone())
    }
}

struct PostgresDatabase(Client, String);

impl Earlier for PostgresDatabase {
    async fn run(&self, text: &str) {
        self.0.batch_execute(text).await.expect(text);
    }

    fn words(&self, hex: &str) -> (&'static str, String, &'static str) {
        ("BYTEA", format!("'\\x{hex}'"), "TIMESTAMPTZ")
    }

    fn location(&self) -> Location {
        Location::Postgres { url: self.1.clone().into(), connections: 2 }
    }
}

fn sqlite() -> SqliteFile {
    let Location::File(path) = new_file() else { unreachable!("it is a file") };
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    SqliteFile(path)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a server");
    tokio::spawn(connection);
    client
}

/// A new, empty database, where the environment names a server.
async fn postgres() -> Option<PostgresDatabase> {
    let url = std::env::var("TEST_POSTGRES_URL").ok()?;
    let name = format!("t{}", &owner().0[5..]);
    connect(&url).await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
    let mut url = url::Url::parse(&url).expect("a URL");
    url.set_path(&name);
    Some(PostgresDatabase(connect(url.as_str()).await, url.into()))
}

/// Sees that the store has what so many steps had kept, and that it goes on.
async fn check(location: Location, steps: usize) {
    let store = Store::new(location).expect("a store");
    let (ann, id) = (Owner("ann".into()), ConversationId::from_str(CONVERSATION).expect("an id"));
    store.prepare().await.expect("today's schema");
    if steps >= 1 {
        let transcript = store.transcript(&ann, id, None, 1000).await.expect("a transcript");
        assert_eq!((transcript.created_at, transcript.used_at), (5, 6));
        assert_eq!(transcript.turns, [("Q".to_string(), "A".to_string(), true)]);
        let turn = store.open(&ann, Some(id.into()), history(10)).await.expect("a turn");
        assert_eq!(turn.conversation().system.as_deref(), Some("S"));
        store.commit(turn, exchange("next")).await.expect("kept");
        assert_eq!(store.transcript(&ann, id, None, 1000).await.expect("a transcript").turns.len(), 2);
        let keys = store.keys().await.expect("keys");
        assert_eq!((keys[0].name.as_str(), keys[0].created_at), ("k", 7));
        assert_eq!(keys[0].owner.0.as_ref(), "0123456789abcdef0123456789abcdef", "today's digest");
    }
    if steps >= 2 {
        assert_eq!(store.session("u").await.expect("read"), Some((3, "sealed".into())));
    }
    if steps >= 3 {
        let thread = store.continuation(&ann, "p").await.expect("read").expect("a thread");
        assert_eq!((thread.conversation.as_str(), thread.last_response.as_str()), ("c", "r"));
        let answer = AnswerId::from_str(ANSWER).expect("an id");
        assert_eq!(store.answer(&ann, answer).await.expect("read").expect("an answer").record, "record");
        assert_eq!(store.usage(&ann).await.expect("read").0.completion_tokens, 3);
    }
    begun(&store, &owner()).await;
    store.close().await;
}

#[tokio::test]
async fn every_earlier_database_is_taken_over_in_sqlite() {
    for steps in 0..=BY_SQLX {
        let earlier = sqlite();
        earlier.make(steps).await;
        check(earlier.location(), steps).await;
    }
}

#[tokio::test]
async fn every_earlier_database_is_taken_over_in_postgresql() {
    for steps in 0..=BY_SQLX {
        let Some(earlier) = postgres().await else { return };
        earlier.make(steps).await;
        check(earlier.location(), steps).await;
    }
}

/// Sees that a database of a version that this program does not know is refused.
async fn check_refused(earlier: impl Earlier) {
    let store = Store::new(earlier.location()).expect("a store");
    store.prepare().await.expect("today's schema");
    let (_, digest, _) = earlier.words("00");
    earlier
        .run(&format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'x', TRUE, {digest}, 0)"
        ))
        .await;
    let older = Store::new(earlier.location()).expect("a store");
    let error = older.prepare().await.expect_err("newer");
    assert_eq!(error.kind, Kind::StorageNewer);
    assert!(error.message.contains("9999"), "{}", error.message);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    check_refused(sqlite()).await;
    if let Some(postgres) = postgres().await {
        check_refused(postgres).await;
    }
}

#[tokio::test]
async fn a_step_that_is_not_this_programs_is_refused() {
    let earlier = sqlite();
    earlier.make(2).await;
    earlier.run("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 2").await;
    let store = Store::new(earlier.location()).expect("a store");
    assert_eq!(store.prepare().await.expect_err("changed").kind, Kind::StorageUnavailable);
}

#[tokio::test]
async fn several_may_bring_a_schema_up_to_date_at_once() {
    let mut locations = vec![new_file()];
    locations.extend(postgres().await.map(|database| database.location()));
    for location in locations {
        let stores: Vec<_> = (0..6).map(|_| Store::new(location.clone()).expect("a store")).collect();
        for outcome in join_all(stores.iter().map(Store::prepare)).await {
            outcome.expect("today's schema");
        }
        if let Location::Postgres { url, .. } = &location {
            let rows = connect(url.expose_secret()).await;
            let rows = rows.query_typed("SELECT version FROM _sqlx_migrations", &[]).await.expect("rows");
            assert_eq!(rows.len(), MIGRATIONS.len());
        }
    }
}
