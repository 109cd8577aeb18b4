//! What the store cannot read.

use super::*;

/// Holds an identity.
const IDENTITY_SECRET: &str = "orders-identity";
/// Made by `age-keygen` for this test.
const IDENTITY: &str = "AGE-SECRET-KEY-1MQTLC00EWPEQTRT404DGR0C8AD34CGP3VTR206M7X3LLTS0JC25SVFP69F";

/// Without the identity nothing is written, and that shows; with it everything goes on, and is restored.
pub(super) async fn turned_on(database: &Database, ground: &Ground) -> Result<()> {
    let mut spec = ground.sample(3);
    spec["backup"]["encryption"] = json!({"secretName": IDENTITY_SECRET});
    database.apply(&spec).await?;
    let down = async || {
        let message = condition(database, CONTINUOUS_ARCHIVING, "False").await?;
        ensure!(message.contains("identity.txt"), "{message}");
        Ok(message)
    };
    let (message, _) = wait::until("the missing identity to show", LIMIT, down).await?;
    say(&message);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": IDENTITY_SECRET, "namespace": ground.namespace},
        "stringData": {"identity.txt": IDENTITY},
    });
    ground.stage.kubectl.run_with(&["apply", "-f", "-"], &secret.to_string()).await?;
    verdict::whole(database, 3, LIMIT).await?;
    let up = async || condition(database, CONTINUOUS_ARCHIVING, "True").await;
    wait::until("archiving to go on encrypted", LIMIT, up).await?;
    let before = ids(database, "true").await?;
    request(database, "encrypted").await?;
    query(database, "INSERT INTO ledger VALUES (5)").await?;
    archived(database).await?;
    let mut copy = ground.sample(1);
    copy["bootstrap"] = json!({"restore": {"from": {"database": "orders-db"}}});
    let decrypted = ground.database("decrypted").await?;
    decrypted.apply(&copy).await?;
    verdict::whole(&decrypted, 1, LIMIT).await?;
    let there = ids(&decrypted, "true").await?;
    ensure!(there.contains(&5) && there.is_superset(&before), "{there:?} of {before:?} and 5");
    decrypted.delete(LIMIT).await
}
