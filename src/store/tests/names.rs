//! Conversations under names of their callers', also where several processes share a database.

use super::*;
use crate::domain::conversations::ConversationRef;

#[tokio::test]
async fn first_uses_of_a_name_at_the_same_time_begin_one_conversation() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        // Another process, where several may share the database.
        let beside = store.database.shared().map(|_| Store::new(store.location.clone()).expect("a store"));
        let (ann, bob) = (owner(), owner());
        let meant: ConversationRef = "customer/42".parse().expect("a name");
        let ask = async |number: usize| {
            let store = beside.as_ref().filter(|_| number.is_multiple_of(2)).unwrap_or(&store);
            let turn = store.open(&ann, Some(meant.clone()), history(10)).await.expect("a turn");
            sleep(Duration::from_millis(20)).await;
            store.commit(turn, exchange(&number.to_string())).await.expect("kept");
        };
        join_all((0..6).map(ask)).await;
        let transcript = store.transcript(&ann, meant.id(), None, 1000).await.expect("a transcript");
        assert_eq!((transcript.turns.len(), transcript.name.as_deref()), (6, Some("customer/42")));
        assert_eq!(store.conversations(&ann, (i64::MAX, ""), 10).await.expect("a list").len(), 1);
        // Another owner's conversation of this name is its own.
        let turn = store.open(&bob, Some(meant.clone()), history(10)).await.expect("a turn");
        assert_eq!(turn.turns_before(), 0);
        drop(turn);
        store.delete(&ann, meant.id()).await.expect("deleted");
        assert!(store.transcript(&ann, meant.id(), None, 1000).await.is_err());
        let turn = store.open(&ann, Some(meant.clone()), history(10)).await.expect("a turn");
        store.commit(turn, exchange("anew")).await.expect("kept");
        assert_eq!(
            store.transcript(&ann, meant.id(), None, 1000).await.expect("a transcript").turns.len(),
            1
        );
    }
}

#[tokio::test]
async fn a_name_whose_first_turn_failed_or_was_given_up_can_be_used_again() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let meant: ConversationRef = "a name".parse().expect("a name");
        drop(store.open(&owner, Some(meant.clone()), history(10)).await.expect("a turn"));
        for _ in 0..2 {
            let turn = store.open(&owner, Some(meant.clone()), history(10)).await.expect("a turn");
            store.decide(&turn, unavailable("its answer did not come")).await.expect_err("not kept");
            assert!(store.commit(turn, exchange("late")).await.is_err());
        }
        assert!(store.transcript(&owner, meant.id(), None, 1000).await.is_err());
        let turn = store.open(&owner, Some(meant.clone()), history(10)).await.expect("a turn");
        store.commit(turn, exchange("one")).await.expect("kept");
        assert_eq!(store.transcript(&owner, meant.id(), None, 1000).await.expect("read").turns.len(), 1);
    }
}
