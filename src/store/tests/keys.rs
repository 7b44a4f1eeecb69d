//! Keys, what they use, who made what, and the audit trail.

use std::slice;

use super::*;
use crate::domain::keys::GatewayKey;
use crate::domain::limits::KeyLimits;

#[tokio::test]
async fn a_key_has_a_name_of_its_own() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let name = owner().0.to_string();
        let limits = KeyLimits { parallel: Some(2), ..KeyLimits::default() };
        let one = GatewayKey::new(&name, "one").limited(limits.clone());
        assert!(store.add_key(&one).await.expect("kept"));
        assert!(!store.add_key(&GatewayKey::new(&name, "another")).await.expect("asked"));
        let keys = store.keys().await.expect("keys");
        let kept = keys.into_iter().find(|key| key.name == name).expect("kept");
        assert_eq!((kept.digest, &kept.owner, kept.limits), (one.digest(), &one.owner, limits));
        let text = store.rotate_key(&name).await.expect("replaced");
        let keys = store.keys().await.expect("keys");
        let kept = keys.into_iter().find(|key| key.name == name).expect("kept");
        assert_eq!((kept.digest, kept.owner), (GatewayKey::new("x", &text).digest(), one.owner));
        store.limit_key(&name, &KeyLimits::default()).await.expect("limited");
        store.remove_key(&name).await.expect("removed");
        assert!(store.remove_key(&name).await.is_err());
    }
}

#[tokio::test]
async fn usage_adds_up_for_each_owner() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (ann, bob) = (owner(), owner());
        let tally = Tally { requests: 1, prompt_tokens: 2, completion_tokens: 3, estimated: 1 };
        store
            .add_usage(vec![(ann.clone(), "a".into(), tally), (bob.clone(), "a".into(), tally)])
            .await
            .expect("added");
        store.add_usage(vec![(ann.clone(), "b".into(), tally)]).await.expect("added");
        let (sum, since) = store.usage(&ann).await.expect("asked");
        assert_eq!(sum, Tally { requests: 2, prompt_tokens: 4, completion_tokens: 6, estimated: 2 });
        assert!(since.is_some());
        let days = store.usage_by_day(1).await.expect("asked");
        let of_ann: Vec<_> = days.into_iter().filter(|day| day.owner == ann).collect();
        assert_eq!(of_ann.iter().map(|day| day.model.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(of_ann.iter().all(|day| day.tally == tally && day.day == of_ann[0].day));
        assert!(store.usage_by_day(0).await.expect("asked").is_empty());
        assert!(store.last_uses().await.expect("asked").contains_key(&bob));
        assert_eq!(store.usage(&owner()).await.expect("asked"), (Tally::default(), None));
    }
}

#[tokio::test]
async fn an_allowance_is_changed_over_the_version_that_was_read() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let ann = owner();
        let none = store.allowance(&ann).await.expect("asked");
        assert_eq!((none.version, none.state.as_str()), (0, ""));
        assert!(store.set_allowance(&ann, 0, "one".into()).await.expect("written"));
        assert!(!store.set_allowance(&ann, 0, "late".into()).await.expect("asked"));
        assert!(store.set_allowance(&ann, 1, "two".into()).await.expect("written"));
        let kept = store.allowance(&ann).await.expect("asked");
        assert_eq!((kept.version, kept.state.as_str()), (2, "two"));
        assert!((kept.now - none.now).abs() < 60_000);
    }
}

#[tokio::test]
async fn what_a_key_has_used_is_forgotten_after_the_key() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let name = owner().0.to_string();
        let key = GatewayKey::new(&name, &name);
        assert!(store.add_key(&key).await.expect("kept"));
        assert!(store.set_allowance(&key.owner, 0, "used".into()).await.expect("written"));
        store.forget_allowances().await.expect("looked");
        assert_eq!(store.allowance(&key.owner).await.expect("asked").state, "used", "the key is there");
        store.remove_key(&name).await.expect("removed");
        store.forget_allowances().await.expect("forgotten");
        assert_eq!(store.allowance(&key.owner).await.expect("asked").version, 0);
    }
}

#[tokio::test]
async fn what_the_upstream_keeps_is_its_makers() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (ann, bob) = (owner(), owner());
        let id = format!("resp_{}", ann.0);
        store.keep_objects(&ann, slice::from_ref(&id)).await.expect("kept");
        store.keep_objects(&bob, slice::from_ref(&id)).await.expect("kept");
        assert!(store.made_object(&ann, &id).await.expect("asked"));
        assert!(!store.made_object(&bob, &id).await.expect("asked"));
        store.expire_objects(Duration::from_secs(60)).await.expect("expired");
        assert!(store.made_object(&ann, &id).await.expect("asked"));
    }
}

#[tokio::test]
async fn deeds_are_read_the_latest_first() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let actor = owner().0.to_string();
        for target in ["first", "second"] {
            let (address, action) = ("192.0.2.1".into(), "key.new".into());
            let deed = Deed { actor: actor.clone(), address, action, target: target.into() };
            store.note_deed(&deed).await.expect("noted");
            sleep(Duration::from_millis(2)).await;
        }
        let deeds = store.deeds(None, 100).await.expect("read");
        let of_it: Vec<_> = deeds.iter().filter(|(_, deed)| deed.actor == actor).collect();
        assert_eq!(
            of_it.iter().map(|(_, deed)| deed.target.as_str()).collect::<Vec<_>>(),
            ["second", "first"]
        );
        let before = store.deeds(Some(of_it[0].0), 100).await.expect("read");
        assert_eq!(before.iter().filter(|(_, deed)| deed.actor == actor).count(), 1);
        // However many were done in one moment, all stand on some page.
        for number in 0..20 {
            let deed = Deed {
                actor: actor.clone(),
                address: String::new(),
                action: "key.set".into(),
                target: number.to_string(),
            };
            store.note_deed(&deed).await.expect("noted");
        }
        let (mut before, mut targets) = (None, Vec::new());
        while let page = store.deeds(before, 1).await.expect("read")
            && let Some((at, _)) = page.last()
        {
            before = Some(*at);
            let of_it = page.into_iter().filter(|(_, deed)| deed.actor == actor);
            targets.extend(of_it.map(|(_, deed)| deed.target));
        }
        targets.sort_unstable();
        targets.dedup();
        assert_eq!(targets.len(), 22);
        store.expire_deeds(Duration::from_secs(60)).await.expect("expired");
        assert!(!store.deeds(None, 1).await.expect("read").is_empty());
    }
}
