#[path = "../../src/pool/stock.rs"]
pub(crate) mod stock;
