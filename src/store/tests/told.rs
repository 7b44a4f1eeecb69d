//! What a caller is told of a turn is true: tried by a connection to PostgreSQL that is cut, or held up,
//! at each point of a commit.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;

/// What becomes of a connection when a turn is about to be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Fine,
    /// It ends before the server has the statement.
    CutBefore,
    /// It ends when the server has the statement, and before its answer is passed on.
    CutAfter,
    /// The server has the statement; its answer never comes.
    Silent,
    /// The statement reaches the server long after it was given up.
    Late(Duration),
}

/// What the bytes of a statement that keeps a turn hold, and no others.
const KEEPS: &[u8] = b"INSERT INTO turns";

struct Proxy {
    url: String,
    fate: Arc<Mutex<Fate>>,
}

impl Proxy {
    async fn start(server: &str) -> Self {
        let mut url = Url::parse(server).expect("a URL");
        let target = (url.host_str().expect("a host").to_string(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        url.set_port(Some(listener.local_addr().expect("an address").port())).expect("a port");
        url.set_host(Some("127.0.0.1")).expect("a host");
        let fate = Arc::new(Mutex::new(Fate::Fine));
        let shared = Arc::clone(&fate);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let server = TcpStream::connect(target.clone()).await.expect("a server");
                tokio::spawn(pass(caller, server, Arc::clone(&shared)));
            }
        });
        Proxy { url: url.into(), fate }
    }

    fn next(&self, fate: Fate) {
        *self.fate.lock().expect("a fate") = fate;
    }
}

/// Passes bytes on until the fate of the next turn strikes, once.
async fn pass(caller: TcpStream, server: TcpStream, fate: Arc<Mutex<Fate>>) {
    let ((mut from_caller, mut to_caller), (mut from_server, mut to_server)) =
        (caller.into_split(), server.into_split());
    let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_caller).await });
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_caller.read(&mut bytes).await {
        let keeps = bytes[..count].windows(KEEPS.len()).any(|window| window == KEEPS);
        let strikes = if keeps {
            std::mem::replace(&mut *fate.lock().expect("a fate"), Fate::Fine)
        } else {
            Fate::Fine
        };
        match strikes {
            Fate::Fine => {}
            Fate::CutBefore => break,
            Fate::CutAfter | Fate::Silent => answers.abort(),
            Fate::Late(time) => sleep(time).await,
        }
        if to_server.write_all(&bytes[..count]).await.is_err() {
            break;
        }
        match strikes {
            Fate::CutAfter => {
                sleep(Duration::from_millis(100)).await;
                break;
            }
            Fate::Silent => sleep(Duration::from_secs(60)).await,
            Fate::Fine | Fate::CutBefore | Fate::Late(_) => {}
        }
    }
    answers.abort();
}

#[tokio::test]
async fn a_turn_is_kept_once_or_surely_not_whatever_becomes_of_the_connection() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else { return };
    let proxy = Proxy::start(&server).await;
    let location = |url: &str| Location::Postgres { url: url.into(), connections: 5 };
    let store = Store::new(location(&proxy.url)).expect("a store");
    let beside = Store::new(location(&server)).expect("a store");
    for fate in
        [Fate::CutBefore, Fate::CutAfter, Fate::Silent, Fate::Late(OPERATION_TIME + Duration::from_secs(1))]
    {
        for is_new in [true, false] {
            let owner = owner();
            let known = if is_new { None } else { Some(begun(&store, &owner).await.into()) };
            let turn = store.open(&owner, known, history(2)).await.expect("a turn");
            let id = turn.id;
            proxy.next(fate);
            // The second try finds the server in order.
            store
                .commit(turn, exchange("paid for"))
                .await
                .unwrap_or_else(|error| panic!("{fate:?}: {error}"));
            if let Fate::Late(_) = fate {
                sleep(Duration::from_secs(2)).await;
            }
            let turns = beside.transcript(&owner, id, None, 1000).await.expect("a transcript").turns;
            let kept = turns.iter().filter(|turn| turn.0 == "paid for").count();
            assert_eq!((kept, turns.len()), (1, 1 + usize::from(!is_new)), "{fate:?}");
            // The next question goes on at once.
            let begin = std::time::Instant::now();
            drop(beside.open(&owner, Some(id.into()), history(2)).await.expect("the next turn"));
            assert!(begin.elapsed() < Duration::from_millis(500), "{fate:?}: {:?}", begin.elapsed());
        }
    }
}

#[tokio::test]
async fn a_turn_that_was_given_up_is_not_kept_later() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        for is_new in [true, false] {
            let owner = owner();
            let known = if is_new { None } else { Some(begun(&store, &owner).await.into()) };
            let turn = store.open(&owner, known, history(2)).await.expect("a turn");
            let id = turn.id;
            let error =
                store.decide(&turn, unavailable("its answer did not come")).await.expect_err("not kept");
            assert_eq!(error.kind, Kind::StorageUnavailable);
            // As the statement that was on its way, arriving now.
            assert!(store.commit(turn, exchange("late")).await.is_err());
            let turns =
                store.transcript(&owner, id, None, 1000).await.map_or(0, |transcript| transcript.turns.len());
            assert_eq!(turns, usize::from(!is_new), "one that nobody sees stands for a new one");
        }
    }
}

#[tokio::test]
async fn a_turn_whose_commit_came_through_unheard_is_found() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let id = begun(&store, &owner).await;
        let turn = store.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
        store.database.write(store.keeping(&turn, exchange("unheard")).into()).await.expect("kept");
        store.decide(&turn, unavailable("its answer did not come")).await.expect("it is there");
        assert_eq!(store.transcript(&owner, id, None, 1000).await.expect("a transcript").turns.len(), 2);
    }
}

#[tokio::test]
async fn a_turn_is_surely_not_kept_while_another_program_holds_the_file() {
    let location = new_file();
    let Location::File(path) = &location else { unreachable!("it is a file") };
    let store = Store::new(location.clone()).expect("a store");
    let owner = owner();
    let id = begun(&store, &owner).await;
    let turn = store.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
    let other = rusqlite::Connection::open(path).expect("the file");
    other.execute_batch("BEGIN IMMEDIATE").expect("its lock");
    let error = store.commit(turn, exchange("two")).await.expect_err("locked");
    assert_eq!(error.kind, Kind::StorageUnavailable);
    // Told before anybody is asked, too.
    let refused = store.open(&owner, Some(id.into()), history(2)).await.err().map(|error| error.kind);
    assert_eq!(refused, Some(Kind::StorageUnavailable));
    other.execute_batch("ROLLBACK").expect("its lock");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(store.transcript(&owner, id, None, 1000).await.expect("a transcript").turns.len(), 1);
    let turn = store.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
    store.commit(turn, exchange("two")).await.expect("kept");
}
