//! `lab demo`: from nothing to a Database that survives the death of its primary, in front of one's eyes.
//!
//! It ends with an error if anything that it shows does not hold.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    cargo::workspace,
    fault::cluster::{Cluster, Fault},
    scenario::{database::Database, fault, stage::Stage, trial::survive, verdict, wait::say},
};

/// Cleared at the start, so that the pods are seen to form.
const NAMESPACE: &str = "demo";
/// As in the sample.
const NAME: &str = "orders-db";
/// As in the sample.
const COUNT: usize = 3;
/// Ten times what it takes on a machine with nothing else to do.
const WHOLE_LIMIT: Duration = Duration::from_mins(4);

/// Shows it.
pub async fn run() -> Result<()> {
    let stage = Stage::with_operator().await?;
    stage.without(NAMESPACE).await?;
    let database = stage.database(NAMESPACE, NAME).await?;
    form(&database).await?;
    show(&database, &["get", "db,pods,services"]).await?;
    break_primary(&stage, &database).await?;
    show(&database, &["get", "db"]).await?;
    show(&database, &["events", "--for", &format!("database/{NAME}")]).await?;
    println!("\n{}", how_to_connect(stage.cluster.clone(), &database).await?);
    Ok(())
}

async fn form(database: &Database) -> Result<()> {
    let sample = workspace().join("manifests/samples/orders-db.yaml").display().to_string();
    say("kubectl apply -f manifests/samples/orders-db.yaml");
    database.kubectl(&["apply", "-f", &sample]).await?;
    let took = tokio::select! {
        never = tell_changes(database) => match never {},
        took = verdict::whole(database, COUNT, WHOLE_LIMIT) => took?,
    };
    say(&format!("{COUNT} instances serve {:.1} s after kubectl apply", took.as_secs_f64()));
    Ok(())
}

/// Tells what becomes of each pod until the caller has seen enough.
async fn tell_changes(database: &Database) -> Infallible {
    let mut told = BTreeMap::new();
    loop {
        for pod in database.pods().await.unwrap_or_default() {
            let now = (pod.node.clone(), pod.role.clone());
            if told.insert(pod.name.clone(), now.clone()) != Some(now) {
                say(&format!(
                    "  {} on {}: {}",
                    pod.name,
                    pod.node.as_deref().unwrap_or("no node yet"),
                    pod.role
                ));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn break_primary(stage: &Stage, database: &Database) -> Result<()> {
    let primary = database.primary().await?;
    say(&format!("a writer inserts rows through {NAME}-rw; others try to write on every pod directly"));
    let kill = async || {
        say(&format!(
            "killing the primary, {} on {:?}",
            primary.name,
            primary.node.as_deref().unwrap_or("?")
        ));
        match stage.cluster.lab_for(Fault::Container) {
            Some(lab) => fault::kill_container(lab, database).await,
            None => fault::delete_primary(database).await,
        }
    };
    let report = survive(database, COUNT, WHOLE_LIMIT, kill).await?;
    ensure!(report.work.not_durable == 0, "{} commits were on one instance only", report.work.not_durable);
    say(&format!("writes stopped for {:.2} s; {} leads now", report.outage.as_secs_f64(), report.leaders.1));
    say(&format!(
        "{} rows were acknowledged, and every one of them is on every instance",
        report.work.acknowledged
    ));
    say(&format!("all {COUNT} instances serve again {:.1} s after the kill", report.whole.as_secs_f64()));
    Ok(())
}

async fn show(database: &Database, arguments: &[&str]) -> Result<()> {
    println!("\n$ kubectl -n {NAMESPACE} {}", arguments.join(" "));
    print!("{}", database.kubectl(arguments).await?);
    Ok(())
}

async fn how_to_connect(cluster: Cluster, database: &Database) -> Result<String> {
    let access = database.read_write().await.context("how to connect")?;
    let kubectl = match cluster {
        Cluster::Lab(_) => "cargo lab kubectl --",
        Cluster::Foreign(_) => "kubectl",
    };
    Ok(format!(
        "Inside the cluster, applications find everything in the Secret {NAME}-app (host, port, user, password, \
         dbname, uri).\nA shell in the primary:\n  {kubectl} -n {NAMESPACE} exec -it {} -c postgres -- psql -U \
         postgres {}\nFrom this machine, at {}:\n  PGPASSWORD=$({kubectl} -n {NAMESPACE} get secret {NAME}-app \
         -o jsonpath='{{.data.password}}' | base64 -d) psql 'host={} user={} dbname={} sslmode=require'\nLook \
         around:\n  {kubectl} -n {NAMESPACE} get db,pods\n  {kubectl} -n {NAMESPACE} describe db {NAME}",
        database.primary().await?.name,
        access.database,
        access.host,
        access.address,
        access.user,
        access.database
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sample_is_what_is_shown() {
        let text =
            std::fs::read_to_string(super::workspace().join("manifests/samples/orders-db.yaml")).unwrap();
        let sample: proto::api::database::Database = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(sample.metadata.name.as_deref(), Some(super::NAME));
        assert_eq!(usize::try_from(sample.spec.replicas).unwrap(), super::COUNT);
    }
}
