//! Answers that their callers come back for.

use super::*;

fn known(record: &str) -> Known {
    Known { record: record.into(), conversation: None }
}

#[tokio::test]
async fn an_owner_keeps_the_latest_of_many_answers() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let id = || AnswerId::random().expect("random bytes");
        let (first, running) = (id(), id());
        store.begin_answer(&owner, first, known("first"), Duration::ZERO).await.expect("kept");
        store.begin_answer(&owner, running, known("running"), Duration::ZERO).await.expect("kept");
        store.keep_answer(&owner, first, known("first"), None).await.expect("kept");
        sleep(Duration::from_millis(2)).await;
        let keep = async || {
            let id = id();
            store.begin_answer(&owner, id, known("later"), Duration::ZERO).await?;
            store.keep_answer(&owner, id, known("later"), None).await
        };
        // In groups, since a slow machine does not write a thousand in the time that one may take.
        for _ in 0..20 {
            for outcome in join_all(std::iter::repeat_with(keep).take(50)).await {
                outcome.expect("kept");
            }
        }
        // Those of one group may not have seen each other.
        keep().await.expect("kept");
        assert_eq!(store.answer(&owner, first).await.expect("asked"), None);
        assert!(store.answer(&owner, running).await.expect("asked").is_some());
    }
}

#[tokio::test]
async fn a_conversation_takes_its_answers_with_it_also_one_that_is_being_worked_on() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let owner = owner();
        let (gone, stays) = (begun(&store, &owner).await, begun(&store, &owner).await);
        let ids = [gone, gone, stays].map(|id| (id, AnswerId::random().expect("random bytes")));
        let alive = Duration::from_secs(60);
        for (conversation, id) in ids {
            let known = Known { record: "part".into(), conversation: Some(conversation) };
            store.begin_answer(&owner, id, known, alive).await.expect("kept");
        }
        store.keep_answer(&owner, ids[0].1, known("whole"), None).await.expect("kept");
        store.delete(&owner, gone).await.expect("deleted");
        store.keep_answer(&owner, ids[1].1, known("late"), None).await.expect("nothing to keep it in");
        for (conversation, id) in ids {
            let found = store.answer(&owner, id).await.expect("asked");
            assert_eq!(found.is_some(), conversation == stays);
        }
    }
}

#[tokio::test]
async fn an_answer_is_alive_as_long_as_someone_vouches_for_it() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (ann, id) = (owner(), AnswerId::random().expect("random bytes"));
        let alive = Duration::from_millis(2000);
        store.begin_answer(&ann, id, known("one"), alive).await.expect("kept");
        let kept = store.answer(&ann, id).await.expect("asked").expect("an answer");
        assert!(kept.alive && !kept.finished && kept.record == "one");
        sleep(Duration::from_millis(2100)).await;
        assert!(!store.answer(&ann, id).await.expect("asked").expect("an answer").alive);
        store.keep_answer(&ann, id, known("two"), None).await.expect("kept");
        let kept = store.answer(&ann, id).await.expect("asked").expect("an answer");
        assert!(kept.finished && kept.record == "two");
        assert_eq!(store.answer(&owner(), id).await.expect("asked"), None);
        store.expire_answers(Duration::from_secs(60)).await.expect("swept");
        assert!(store.answer(&ann, id).await.expect("asked").is_some());
        store.expire_answers(Duration::ZERO).await.expect("swept");
        assert_eq!(store.answer(&ann, id).await.expect("asked"), None);
    }
}
