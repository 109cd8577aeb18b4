//! What Jobs and pods leave behind, and how it reads.

use serde_json::{Value, json};

use super::*;

fn job(name: &str, second: i64, condition: &Value) -> Job {
    let created = Timestamp::from_second(second).unwrap().to_string();
    let conditions: Vec<_> = Some(condition).filter(|condition| !condition.is_null()).into_iter().collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": created},
        "status": {"startTime": created, "conditions": conditions},
    }))
    .unwrap()
}

fn ended(type_: &str) -> Value {
    ended_for(type_, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
}

fn ended_for(type_: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": "1970-01-01T01:00:00Z",
    })
}

fn pod(job: &str, status: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{job}-x"), "uid": "p",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": format!("uid-{job}")}],
        },
        "status": status,
    }))
    .unwrap()
}

fn terminated(code: i32, reason: &str, message: &str) -> Value {
    let state = json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
    json!({"containerStatuses": [{
        "name": "drill", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    }]})
}

fn report(proof: bool) -> String {
    let proof = proof.then(|| {
        json!({"reached": "0/5000000", "lastCommit": "1970-01-01T00:00:30.5Z", "databases": 3, "tables": 12,
               "rows": 345, "withoutAmcheck": null})
    });
    let error = proof.is_none().then_some("a hole in the archive");
    json!({"startedAt": "1970-01-01T00:01:00Z", "endedAt": "1970-01-01T00:05:12Z", "backup": "b7", "proof": proof,
           "error": error})
    .to_string()
}

fn last(jobs: Vec<Job>, pods: Vec<Pod>) -> Option<RestoreDrill> {
    last_drill(&LiveDrill { jobs, pods, ..LiveDrill::default() })
}

#[test]
fn a_proof_says_what_was_restored_and_checked() {
    let pods = vec![pod("d", &terminated(0, "Completed", &report(true)))];
    let drill = last(vec![job("d", 50, &ended("Complete"))], pods).unwrap();
    assert_eq!((drill.result, drill.backup_id.as_deref()), (DrillResult::Proven, Some("b7")));
    assert_eq!(drill.duration.as_deref(), Some("4m12s"));
    assert_eq!(drill.restored_to.map(|time| time.0.as_second()), Some(30));
    assert_eq!(
        drill.message,
        "b7 was restored up to 1970-01-01T00:00:30Z and started: 345 rows in 12 tables of 3 databases were read and \
         checked by pg_amcheck"
    );
}

#[test]
fn a_failure_says_why_whoever_noticed_it() {
    let waiting = json!({"initContainerStatuses": [{
        "name": "install", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
    }]});
    let unscheduled =
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no volume"}]});
    for (status, words) in [
        (Some(terminated(1, "Error", &report(false))), "a hole in the archive"),
        (Some(terminated(137, "OOMKilled", "")), "container drill of d-x: OOMKilled"),
        (Some(waiting), "container install of d-x: ImagePullBackOff: no such image"),
        (Some(unscheduled), "d-x: no volume"),
        (None, "the pod ended without a report: Job has reached"),
    ] {
        let pods = status.map(|status| pod("d", &status)).into_iter().collect();
        let drill = last(vec![job("d", 50, &ended("Failed"))], pods).unwrap();
        assert_eq!(drill.result, DrillResult::Failed);
        assert!(drill.message.starts_with(words), "{}", drill.message);
    }
}

#[test]
fn one_that_took_too_long_is_told_as_such_and_not_as_interrupted() {
    let too_long = ended_for("Failed", "DeadlineExceeded", "Job was active longer than specified deadline");
    let pods = vec![pod("d", &terminated(1, "Error", &report(false)))];
    let drill = last(vec![job("d", 50, &too_long)], pods).unwrap();
    assert!(drill.message.contains("active longer than specified deadline"), "{}", drill.message);
}

#[test]
fn only_what_has_ended_counts_and_the_newest_of_it() {
    let jobs = || {
        vec![
            job("old", 10, &ended("Failed")),
            job("new", 20, &ended("Complete")),
            job("running", 30, &Value::Null),
            job("ending", 40, &json!({"type": "FailureTarget", "status": "True"})),
        ]
    };
    assert_eq!(last(jobs(), Vec::new()).unwrap().job, "new");
    assert_eq!(last(jobs().split_off(2), Vec::new()), None);
    let pods = ["new", "running", "ending"].map(|job| pod(job, &json!({})));
    let live = LiveDrill { jobs: jobs(), pods: pods.into(), ..LiveDrill::default() };
    assert_eq!(over(&live).map(ResourceExt::name_any).collect::<Vec<_>>(), ["new-x"]);
}
