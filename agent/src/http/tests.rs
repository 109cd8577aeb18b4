//! Who answers 200, over the whole table of situations, through the real routes.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use proto::{
    clock::BootTime,
    ha::view::Me,
    identity::Ordinal,
    wire::http::{Lag, Role, State},
};
use tower::ServiceExt;

use super::*;
use crate::{
    archive::Counts,
    peer::client::peers,
    tls::tests::{Authority, credentials},
};

/// A situation by name.
fn situation(name: &str) -> Published {
    let me = Me {
        ordinal: Ordinal(0),
        pod: "db-0".into(),
        pod_uid: "uid".into(),
        database: "db".into(),
        namespace: "prod".into(),
    };
    let mut shown = Published::unknown(&me);
    let now = boot_clock::now();
    shown.lease = Duration::from_secs(10);
    let standby = |shown: &mut Published, state, lag| {
        shown.status.role = Role::Replica;
        shown.status.state = state;
        shown.status.lag = Some(Lag { bytes: lag, seconds: 0.0 });
        shown.streamed_at = Some(now);
    };
    match name {
        "starting" => {}
        "primary" | "primary, lease over" | "primary, read-only" | "primary, SQL silent" => {
            shown.status.role = Role::Primary;
            shown.status.state = State::Running;
            shown.lease_valid_until = Some(now + Duration::from_mins(1));
            shown.writable_at = Some(now);
        }
        "standby" => standby(&mut shown, State::Streaming, 100),
        "standby, lags" => standby(&mut shown, State::Streaming, 17 << 20),
        "standby, leader just lost" => standby(&mut shown, State::Running, 100),
        "standby, leader lost for long" => {
            standby(&mut shown, State::Running, 100);
            shown.streamed_at = Some(now - Duration::from_secs(21));
        }
        "standby, server down" => standby(&mut shown, State::Stopped, 100),
        "loop stuck" => shown.at = now - Duration::from_secs(31),
        other => panic!("{other}"),
    }
    match name {
        "primary, lease over" => shown.lease_valid_until = Some(now - Duration::from_millis(1)),
        "primary, read-only" => shown.writable_at = None,
        "primary, SQL silent" => shown.writable_at = Some(now - Duration::from_secs(6)),
        _ => {}
    }
    shown
}

async fn code(name: &str, path: &str) -> u16 {
    let (_keep, published) = watch::channel(Arc::new(situation(name)));
    let (_rotate, current) = watch::channel(credentials(&Authority::new(), "db-0"));
    let (peers, _task) = peers("db", "prod", current).unwrap();
    let metrics = Arc::new(Metrics::new("db", "prod"));
    let archive = crate::archive::tests::without_store(published.clone());
    let (backups, _task) = crate::backup::backups(archive, peers.clone(), "/nonexistent".into());
    let (database, namespace) = ("db".into(), "prod".into());
    let shared = Shared { published, metrics, backups, peers, database, namespace };
    let request = Request::get(path).body(Body::empty()).unwrap();
    routes(shared).oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn who_answers_200() {
    const PATHS: [&str; 7] =
        ["/primary", "/replica", "/replica?lag=16MB", "/read-only", "/health", "/readiness", "/liveness"];
    let table = [
        ("starting", [503, 503, 503, 503, 503, 503, 200]),
        ("primary", [200, 503, 503, 200, 200, 200, 200]),
        ("primary, lease over", [503, 503, 503, 503, 200, 503, 200]),
        ("primary, read-only", [503, 503, 503, 503, 200, 503, 200]),
        ("primary, SQL silent", [503, 503, 503, 503, 200, 503, 200]),
        ("standby", [503, 200, 200, 200, 200, 200, 200]),
        ("standby, lags", [503, 200, 503, 200, 200, 200, 200]),
        ("standby, leader just lost", [503, 200, 200, 200, 200, 200, 200]),
        ("standby, leader lost for long", [503, 200, 200, 200, 200, 503, 200]),
        ("standby, server down", [503, 503, 503, 503, 503, 503, 200]),
        ("loop stuck", [503, 503, 503, 503, 503, 503, 503]),
    ];
    for (name, expected) in table {
        for (path, wanted) in PATHS.into_iter().zip(expected) {
            assert_eq!(code(name, path).await, wanted, "{path} of {name:?}");
        }
    }
}

#[tokio::test]
async fn other_paths() {
    for (path, wanted) in [
        ("/patroni", StatusCode::OK),
        ("/history", StatusCode::OK),
        ("/cluster", StatusCode::OK),
        ("/metrics", StatusCode::OK),
        ("/replica?lag=much", StatusCode::BAD_REQUEST),
        // Only with a certificate, on the other port.
        ("/switchover", StatusCode::NOT_FOUND),
        ("/question", StatusCode::NOT_FOUND),
        ("/timeline", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(code("primary", path).await, wanted.as_u16(), "{path}");
    }
}

#[test]
fn metrics_keep_their_names() {
    let metrics = Metrics::new("db", "prod");
    let mut shown = situation("standby");
    shown.lease_seen_at = Some(BootTime(1));
    metrics.took_over(false, 1.5);
    metrics.fences(2);
    metrics.fences(3);
    metrics.promised();
    metrics.relayed();
    metrics.relayed();
    shown.promised_until = Some(boot_clock::now() + Duration::from_mins(1));
    let text = metrics.encode(&shown, (None, Counts::default()), boot_clock::now()).unwrap();
    for line in [
        "database_failover_total{database=\"db\",namespace=\"prod\"} 1\n",
        "database_switchover_total{database=\"db\",namespace=\"prod\"} 0\n",
        "database_failover_duration_seconds_count{database=\"db\",namespace=\"prod\"} 1\n",
        "database_fence_total{database=\"db\",namespace=\"prod\"} 3\n",
        "database_promise_total{database=\"db\",namespace=\"prod\"} 1\n",
        "database_relay_total{database=\"db\",namespace=\"prod\"} 2\n",
        "database_promised{database=\"db\",namespace=\"prod\"} 1\n",
        "database_led_by_promise{database=\"db\",namespace=\"prod\"} 0\n",
        "database_replication_lag_bytes{database=\"db\",namespace=\"prod\"} 100\n",
        "database_replica{database=\"db\",namespace=\"prod\"} 1\n",
        "database_lease_age_seconds{",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

/// Who leads by promise does so only while the promises count, and who promised is bound no longer than that.
#[test]
fn promises_are_shown_while_they_bind() {
    let (metrics, now) = (Metrics::new("db", "prod"), boot_clock::now());
    let says = |shown: &Published, line: &str| {
        let text = metrics.encode(shown, (None, Counts::default()), now).unwrap();
        text.contains(&format!("{line}{{database=\"db\",namespace=\"prod\"}} 1\n"))
    };
    let leader = |name| Published { by_promise: true, ..situation(name) };
    assert!(says(&leader("primary"), "database_led_by_promise"));
    assert!(!says(&leader("primary, lease over"), "database_led_by_promise"));
    assert!(!says(&situation("primary"), "database_led_by_promise"));
    let bound = |until| Published { promised_until: Some(until), ..situation("standby") };
    assert!(says(&bound(now + Duration::from_millis(1)), "database_promised"));
    assert!(!says(&bound(now), "database_promised"));
}
