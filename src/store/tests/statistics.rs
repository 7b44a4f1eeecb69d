//! What was asked of whom, by the hour.

use super::*;
use crate::traffic::{Combination, Counts, HOUR, SHORT, Slot};

fn row(span: i64, begins_at: i64, counts: &str) -> SlotRow {
    SlotRow { span, begins_at, counts: counts.into() }
}

#[tokio::test]
async fn each_process_writes_its_own_row_anew_and_all_are_read() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for store in stores() {
        let (one, other) = (owner().0, owner().0);
        let now = store.clock().await.expect("a clock");
        let (start, earlier) = (now - now % HOUR, now - now % HOUR - HOUR);
        // Other cases' rows may stand in the same hours.
        let of_ours = async |span, since| {
            let rows = store.statistics(span, since).await.expect("read");
            let ours = rows.into_iter().filter(|row| row.counts.starts_with(&*one));
            ours.map(|row| (row.begins_at, row.counts[one.len()..].to_string())).collect::<Vec<_>>()
        };
        let counts = |text: &str| format!("{one}{text}");
        let rows = vec![
            row(HOUR, earlier, &counts("a")),
            row(HOUR, start, &counts("b")),
            row(SHORT, start, &counts("c")),
        ];
        store.keep_statistics(&one, rows).await.expect("kept");
        store.keep_statistics(&other, vec![row(HOUR, start, &counts("z"))]).await.expect("kept");
        store.keep_statistics(&one, vec![row(HOUR, start, &counts("d"))]).await.expect("kept");
        let mut found = of_ours(HOUR, earlier).await;
        found.sort();
        assert_eq!(found, [(earlier, "a".into()), (start, "d".into()), (start, "z".into())]);
        assert_eq!(of_ours(HOUR, start).await.len(), 2);
        store.expire_statistics(HOUR, HOUR - 1).await.expect("expired");
        assert!(of_ours(HOUR, earlier).await.iter().all(|(begins_at, _)| *begins_at == start));
        assert_eq!(of_ours(SHORT, start).await, [(start, "c".into())]);
    }
}

/// An hour of five keys that each ask five models, and of some of their questions that fail.
fn busy_hour(start: i64) -> Slot {
    let mut slot = Slot { start, span: HOUR, ..Slot::default() };
    for number in 0..30_u64 {
        let (key, model) = (number % 5, number / 5 % 5);
        let of = Combination {
            key: format!("dify-production-{key}").into(),
            model: format!("a-model-of-2026-{model}"),
            upstream: "https://chat.mirror.example".into(),
            code: if number < 25 { "".into() } else { "upstream_rate_limited".into() },
        };
        let calls = if number < 25 { 60 } else { 3 };
        let mut counts =
            Counts { calls, prompt_tokens: 90_000, completion_tokens: 30_000, ..Counts::default() };
        for call in 0..calls {
            // Spread over a decade, as answers of a model are.
            let spread = 1.04_f64.powi(call as i32);
            counts.first_token.count(Duration::from_secs_f64(0.4 * spread));
            counts.total.count(Duration::from_secs_f64(1.5 * spread));
        }
        slot.counts.insert(of, counts);
    }
    slot
}

#[tokio::test]
async fn five_weeks_of_five_keys_and_five_models_are_less_than_two_megabytes() {
    let location = new_file();
    let Location::File(path) = &location else { panic!("it is a file") };
    let size = || std::fs::metadata(path).expect("a file").len();
    let store = Store::new(location.clone()).expect("a store");
    store.prepare().await.expect("it is made");
    let before = size();
    let hours: Vec<_> = (0..35 * 24).map(|hour| busy_hour(hour * HOUR)).collect();
    for day in hours.chunks(24) {
        let rows = day.iter().map(|slot| row(HOUR, slot.start, &slot.text())).collect();
        store.keep_statistics("0123456789abcdef", rows).await.expect("kept");
    }
    let rows = store.statistics(HOUR, 0).await.expect("read");
    assert_eq!(rows.len(), hours.len());
    let counts = Slot::read(&rows[7].counts).expect("it is understood");
    assert_eq!(counts.into_iter().collect::<std::collections::HashMap<_, _>>(), hours[7].counts);
    store.close().await;
    let bytes = size() - before;
    assert!((500_000..2_000_000).contains(&bytes), "{bytes} bytes");
}
