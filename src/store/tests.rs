//! The store's cases: the same in memory, in a file, and in PostgreSQL.

mod answers;
mod earlier;
mod keys;
mod names;
mod statistics;
mod told;

use futures_util::future::join_all;
use tokio::sync::Mutex as TurnMutex;
use tokio::time::sleep;

use super::*;
use crate::domain::chat::{AnswerId, ConversationId, Owner, Tally, Thread};

/// Cases that share a PostgreSQL database take turns: one of them deletes what is old.
static ONE_AT_A_TIME: TurnMutex<()> = TurnMutex::const_new(());

/// The same cases run in memory, in a file, and in PostgreSQL where the environment names one.
fn stores() -> Vec<Store> {
    let mut locations = vec![Location::Memory, new_file()];
    locations.extend(
        std::env::var("TEST_POSTGRES_URL")
            .ok()
            .map(|url| Location::Postgres { url: url.into(), connections: 5 }),
    );
    locations.into_iter().map(|location| Store::new(location).expect("a store")).collect()
}

/// A file that is not there yet, in a folder of its own.
fn new_file() -> Location {
    let folder = std::env::temp_dir().join(format!("mirrorgate-store-{}", std::process::id()));
    Location::File(folder.join(&*owner().0).join("test %?.db"))
}

fn exchange(question: &str) -> Exchange {
    Exchange {
        system: Some("S".into()),
        thread: Some(Thread {
            upstream: "u".into(),
            conversation: "c".into(),
            last_response: question.into(),
        }),
        question: question.into(),
        answer: format!("{question}!\0"),
        partial: question.is_empty(),
    }
}

fn owner() -> Owner {
    Owner(ConversationId::random().expect("random bytes").to_string().into())
}

/// An answer to be come back for, of no conversation.
/// So many messages.
fn history(messages: usize) -> History {
    History { turns: messages / 2, bytes: 1 << 20 }
}

/// A conversation of one turn.
async fn begun(store: &Store, owner: &Owner) -> ConversationId {
    let turn = store.open(owner, None, history(2)).await.expect("a turn");
    let id = turn.id;
    store.commit(turn, exchange("one")).await.expect("kept");
    id
}

#[tokio::test]
async fn a_conversation_is_kept_and_found_by_its_owner_alone() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (ann, bob) = (owner(), owner());
        let turn = store.open(&ann, None, history(10)).await.expect("a turn");
        let id = turn.id;
        assert_eq!(turn.conversation().messages, Some(Vec::new()), "there is nothing to be read");
        assert!(
            store.open(&ann, Some(id.into()), history(10)).await.is_err(),
            "nothing is kept before the commit"
        );
        store.commit(turn, exchange("one")).await.expect("kept");
        for question in ["two", "three"] {
            let turn = store.open(&ann, Some(id.into()), history(10)).await.expect("a turn");
            store.commit(turn, exchange(question)).await.expect("kept");
        }
        let turn = store.open(&ann, Some(id.into()), history(4)).await.expect("a turn");
        let conversation = turn.conversation().clone();
        assert_eq!(conversation.messages, None, "an upstream has it");
        let messages = store.history(&turn).await.expect("a history");
        let texts: Vec<_> = messages.iter().map(|message| message.text().into_owned()).collect();
        assert_eq!(texts, ["two", "two!\u{fffd}", "three", "three!\u{fffd}"]);
        assert_eq!(conversation.thread.map(|thread| thread.last_response).as_deref(), Some("three"));
        drop(turn);
        for kind in [
            store.open(&bob, Some(id.into()), history(10)).await.err().map(|error| error.kind),
            store.transcript(&bob, id, None, 1000).await.err().map(|error| error.kind),
            store.delete(&bob, id).await.err().map(|error| error.kind),
        ] {
            assert_eq!(kind, Some(Kind::ConversationNotFound));
        }
        assert_eq!(store.transcript(&ann, id, None, 1000).await.expect("a transcript").turns.len(), 3);
        store.delete(&ann, id).await.expect("deleted");
        assert!(store.transcript(&ann, id, None, 1000).await.is_err());
    }
}

#[tokio::test]
async fn a_conversation_that_is_deleted_during_a_turn_stays_deleted() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let turn = store.open(&owner, None, history(2)).await.expect("a turn");
        let id = turn.id;
        store.commit(turn, exchange("one")).await.expect("kept");
        let turn = store.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
        store.delete(&owner, id).await.expect("deleted");
        let error = store.commit(turn, exchange("two")).await.expect_err("gone");
        assert_eq!(error.kind, Kind::ConversationNotFound);
        assert!(store.transcript(&owner, id, None, 1000).await.is_err());
    }
}

#[tokio::test]
async fn a_turn_that_cannot_be_kept_does_not_spoil_one_that_is_committed_with_it() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let (fine, gone) = (begun(&store, &owner).await, begun(&store, &owner).await);
        let fine_turn = store.open(&owner, Some(fine.into()), history(2)).await.expect("a turn");
        let gone_turn = store.open(&owner, Some(gone.into()), history(2)).await.expect("a turn");
        store.delete(&owner, gone).await.expect("deleted");
        let new_turn = store.open(&owner, None, history(2)).await.expect("a turn");
        let new = new_turn.id;
        let commit = |turn| store.commit(turn, exchange("two"));
        let outcomes = join_all([fine_turn, gone_turn, new_turn].map(commit)).await;
        let kinds: Vec<_> =
            outcomes.iter().map(|outcome| outcome.as_ref().err().map(|error| error.kind)).collect();
        assert_eq!(kinds, [None, Some(Kind::ConversationNotFound), None]);
        assert_eq!(store.transcript(&owner, fine, None, 1000).await.expect("a transcript").turns.len(), 2);
        assert_eq!(store.transcript(&owner, new, None, 1000).await.expect("a transcript").turns.len(), 1);
        assert!(store.transcript(&owner, gone, None, 1000).await.is_err());
    }
}

#[tokio::test]
async fn a_turn_that_another_process_went_past_is_refused() {
    let location = new_file();
    let (ours, theirs) =
        (Store::new(location.clone()).expect("a store"), Store::new(location).expect("a store"));
    let owner = owner();
    let id = begun(&ours, &owner).await;
    let late = ours.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
    let turn = theirs.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
    theirs.commit(turn, exchange("theirs")).await.expect("kept");
    let error = ours.commit(late, exchange("ours")).await.expect_err("too late");
    assert_eq!(error.kind, Kind::ConversationBusy);
    let turns = ours.transcript(&owner, id, None, 1000).await.expect("a transcript").turns;
    assert_eq!(turns.last().map(|turn| turn.0.as_str()), Some("theirs"));
}

#[tokio::test]
async fn parallel_turns_wait_for_each_other_and_none_is_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores().into_iter().map(Arc::new) {
        let owner = owner();
        let turn = store.open(&owner, None, history(2)).await.expect("a turn");
        let id = turn.id;
        store.commit(turn, exchange("0")).await.expect("kept");
        let turns = (1..20).map(|number| {
            let (store, owner) = (Arc::clone(&store), owner.clone());
            async move {
                let turn = store.open(&owner, Some(id.into()), history(2)).await.expect("a turn");
                tokio::task::yield_now().await;
                store.commit(turn, exchange(&number.to_string())).await.expect("kept");
            }
        });
        join_all(turns).await;
        assert_eq!(store.transcript(&owner, id, None, 1000).await.expect("a transcript").turns.len(), 20);
    }
}

#[tokio::test]
async fn only_what_is_old_enough_expires() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let turn = store.open(&owner, None, history(2)).await.expect("a turn");
        let id = turn.id;
        store.commit(turn, exchange("0")).await.expect("kept");
        store.expire(Duration::from_secs(60)).await.expect("swept");
        assert!(store.transcript(&owner, id, None, 1000).await.is_ok());
        sleep(Duration::from_millis(20)).await;
        store.expire(Duration::from_millis(10)).await.expect("swept");
        assert!(store.transcript(&owner, id, None, 1000).await.is_err());
    }
}

#[tokio::test]
async fn many_expire_at_once() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let begin = || begun(&store, &owner);
        let ids = join_all(std::iter::repeat_with(begin).take(250)).await;
        sleep(Duration::from_millis(3000)).await;
        let fresh = begun(&store, &owner).await;
        assert!(store.expire(Duration::from_millis(2900)).await.expect("swept") >= 250);
        for id in ids {
            assert!(store.transcript(&owner, id, None, 1000).await.is_err());
        }
        assert!(store.transcript(&owner, fresh, None, 1000).await.is_ok());
    }
}

#[tokio::test]
async fn a_continuation_is_found_by_its_owner_alone_and_the_latest_holds() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (ann, bob) = (owner(), owner());
        assert_eq!(store.continuation(&ann, "p").await.expect("asked"), None);
        for last in ["r1", "r2"] {
            let thread =
                Thread { upstream: "u".into(), conversation: "c".into(), last_response: last.into() };
            store.keep_continuation(&ann, "p", thread).await.expect("kept");
        }
        let found = store.continuation(&ann, "p").await.expect("asked").expect("a thread");
        assert_eq!(found.last_response, "r2");
        assert_eq!(store.continuation(&bob, "p").await.expect("asked"), None);
    }
}

#[tokio::test]
async fn what_is_read_of_a_conversation_is_bounded_and_paged() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let ann = owner();
        let mut id = None;
        for number in 1..=5 {
            let turn = store.open(&ann, id.map(Into::into), history(10)).await.expect("a turn");
            id = Some(turn.id);
            let exchange =
                Exchange { thread: None, question: number.to_string(), ..exchange("x".repeat(100).as_str()) };
            store.commit(turn, exchange).await.expect("kept");
        }
        let id = id.expect("a conversation");
        // Each turn has 105 bytes.
        for (turns, bytes, expected) in
            [(10, 10_000, 5), (2, 10_000, 2), (10, 315, 3), (10, 314, 2), (10, 50, 0)]
        {
            let turn = store.open(&ann, Some(id.into()), History { turns, bytes }).await.expect("a turn");
            let messages = store.history(&turn).await.expect("a history");
            assert_eq!(
                (messages.len(), turn.turns_before()),
                (2 * expected, 5),
                "{turns} turns, {bytes} bytes"
            );
            if expected > 0 {
                assert_eq!(messages[0].text(), (6 - expected).to_string());
            }
        }
        let mut pages = Vec::new();
        let mut before = None;
        loop {
            let page = store.transcript(&ann, id, before, 2).await.expect("a page");
            pages.push(page.turns.iter().map(|(question, ..)| question.clone()).collect::<Vec<_>>());
            before = page.next_before;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(pages, [vec!["4", "5"], vec!["2", "3"], vec!["1"]]);
    }
}

#[tokio::test]
async fn conversations_are_listed_by_use_and_deleted_together() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (ann, bob) = (owner(), owner());
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.insert(0, begun(&store, &ann).await.to_string());
            sleep(Duration::from_millis(3)).await;
        }
        let theirs = begun(&store, &bob).await;
        let first = store.conversations(&ann, (i64::MAX, ""), 2).await.expect("a list");
        let last = first.last().map(|last| (last.used_at, last.id.clone())).expect("two");
        let rest = store.conversations(&ann, (last.0, &last.1), 2).await.expect("a list");
        let listed: Vec<_> = first.iter().chain(&rest).map(|listed| listed.id.clone()).collect();
        assert_eq!(listed, ids);
        assert!(first.iter().all(|listed| listed.turns == 1 && listed.bytes > 0));
        let bytes = store.bytes_of(&ann).await.expect("a sum");
        assert!(bytes > 0);
        assert_eq!(store.bytes_of_all().await.expect("sums").get(&ann), Some(&bytes));
        assert_eq!(store.delete_all(&ann).await.expect("deleted"), 3);
        assert_eq!(store.conversations(&ann, (i64::MAX, ""), 2).await.expect("a list"), []);
        assert!(store.transcript(&bob, theirs, None, 1).await.is_ok());
    }
}

/// Keeps a session over the one that is there.
async fn keep(store: &Store, name: &str, text: &str) -> i64 {
    let before = store.session(name).await.expect("read").map_or(0, |(version, _)| version);
    store.keep_session(name, text.into(), before).await.expect("kept").expect("nobody else keeps one")
}

#[tokio::test]
async fn a_session_is_kept_only_over_the_one_that_was_known() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let name = owner().0;
        let first = store.keep_session(&name, "first".into(), 0).await.expect("asked").expect("kept");
        assert_eq!(store.keep_session(&name, "blind".into(), 0).await.expect("asked"), None);
        assert_eq!(store.session(&name).await.expect("read"), Some((first, "first".into())));
        let second = store.keep_session(&name, "second".into(), first).await.expect("asked");
        assert!(second.is_some_and(|second| second > first));
    }
}

#[tokio::test]
async fn a_renamed_session_gives_way_to_a_later_one() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (old, new) = (owner().0, owner().0);
        let first = keep(&store, &old, "first").await;
        store.rename_session(&old, first + 1, &new).await.expect("nothing to do");
        assert_eq!(store.session(&new).await.expect("read"), None, "it has changed since it was read");
        store.rename_session(&old, first, &new).await.expect("renamed");
        assert_eq!(store.session(&old).await.expect("read"), None);
        let (_, text) = store.session(&new).await.expect("read").expect("a session");
        assert_eq!(text, "first");

        let stale = keep(&store, &old, "stale").await;
        sleep(Duration::from_millis(5)).await;
        let version = keep(&store, &new, "later").await;
        store.rename_session(&old, stale, &new).await.expect("gone");
        assert_eq!(store.session(&new).await.expect("read"), Some((version, "later".into())));
        assert_eq!(store.session(&old).await.expect("read"), None);

        sleep(Duration::from_millis(5)).await;
        let newest = keep(&store, &old, "newest").await;
        store.rename_session(&old, newest, &new).await.expect("renamed");
        let (after, text) = store.session(&new).await.expect("read").expect("a session");
        assert_eq!((after > version, text.as_str()), (true, "newest"));
    }
}
