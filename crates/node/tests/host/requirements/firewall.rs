//! The node's one table.

use std::path::PathBuf;

use host::net::{Firewall, resolvers};
use host::process::run;
use lifecycle::{Budget, Release};
use testkit::{TestNode, in_view};

use super::{LIMIT, mark};

#[test]
fn the_table_applied_again_is_the_same_and_removed_once_is_gone() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let nft = PathBuf::from("/usr/sbin/nft");
        let table = Firewall::new(nft.clone(), mark(&test));
        let budget = Budget::within(LIMIT);
        let rules = async || {
            let args = ["list", "table", "inet", table.name()];
            run(&nft, &args, None, budget).await.unwrap().output
        };
        let once = rules().await;
        assert!(once.contains("masquerade"), "{once}");
        for _ in 0..2 {
            table.apply(&resolvers(), budget).await.unwrap();
            assert_eq!(rules().await, once);
        }
        // Removing what is there, and what is not.
        for _ in 0..2 {
            table.release(budget).await.unwrap();
            assert!(!table.exists(budget).await.unwrap());
        }
        table.apply(&resolvers(), budget).await.unwrap();
        test.stop().await;
    });
}
