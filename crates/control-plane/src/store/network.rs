use e2b_wire::NetworkConfig;
use model::SandboxId;

use super::{Store, StoreError};

const SET: &str =
    "UPDATE sandboxes SET network = $2, internet = $3 WHERE id = $1 AND state = 'running'";

impl Store {
    /// Other rules are in force now.
    pub(crate) async fn set_network(
        &self,
        id: &SandboxId,
        network: &NetworkConfig,
        internet: Option<bool>,
    ) -> Result<(), StoreError> {
        let set = sqlx::query(SET)
            .bind(id.as_str())
            .bind(encode(Some(network))?)
            .bind(internet.map(i64::from))
            .execute(&self.writer);
        set.await.map(drop).map_err(StoreError::query("record the network of a sandbox"))
    }
}

pub(super) fn encode(network: Option<&NetworkConfig>) -> Result<Option<String>, StoreError> {
    let encoded = network.map(serde_json::to_string).transpose();
    encoded.map_err(|source| StoreError::Query {
        what: "encode the network of a sandbox",
        source: sqlx::Error::Encode(Box::new(source)),
    })
}
