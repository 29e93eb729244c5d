//! What the demo says at the end.

use super::consumers::Delivered;
use super::fleet::Totals;
use super::network::Network;
use super::sender::Sent;

/// Figures of one run.
pub struct Report {
    transactions: u64,
    network: Network,
    sent: Sent,
    totals: Totals,
    delivered: [Delivered; 2],
    whole_block: bool,
    seconds: f64,
}

impl Report {
    pub fn new(
        transactions: u64,
        network: Network,
        sent: Sent,
        totals: Totals,
        delivered: &[Delivered; 2],
        whole_block: bool,
        seconds: f64,
    ) -> Report {
        Report { transactions, network, sent, totals, delivered: *delivered, whole_block, seconds }
    }

    fn missing(&self) -> u64 {
        self.delivered.iter().map(|one| one.missing).sum()
    }

    fn twice(&self) -> u64 {
        self.delivered.iter().map(|one| one.twice).sum()
    }

    fn merkle_root_ok(&self) -> bool {
        self.delivered.iter().all(|one| one.merkle_root_ok)
    }

    /// True if nothing is missing, nothing came twice or uninvited, and the Merkle root matches.
    pub fn is_proof(&self) -> bool {
        let uninvited = self.delivered.iter().any(|one| one.unexpected > 0);
        self.missing() == 0 && self.twice() == 0 && !uninvited && self.merkle_root_ok()
    }

    pub fn print(&self, json: bool) {
        if json {
            println!("{}", self.json());
        } else {
            self.table();
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "transactions": self.transactions,
            "frames_sent": self.sent.frames,
            "duplicates_sent": self.sent.duplicates,
            "duplicates_suppressed": self.totals.duplicates_suppressed,
            "dropped_on_purpose": self.totals.dropped_on_purpose,
            "recovered": self.totals.recovered,
            "delivered": self.delivered.map(|one| one.unique),
            "delivered_twice": self.twice(),
            "missing": self.missing(),
            "merkle_root_ok": self.merkle_root_ok(),
            "seconds": self.seconds,
            "network": self.network.name(),
        })
    }

    fn table(&self) {
        let [one, two] = self.delivered;
        let rows = [
            ("transactions", self.transactions.to_string()),
            ("frames sent", format!("{}, {} of them second copies", self.sent.frames, self.sent.duplicates)),
            ("copies suppressed at ingress", self.totals.duplicates_suppressed.to_string()),
            ("datagrams dropped on purpose", self.totals.dropped_on_purpose.to_string()),
            ("recovered from retry endpoints", self.totals.recovered.to_string()),
            ("delivered to each consumer", format!("{}, {}", one.unique, two.unique)),
            ("delivered twice", self.twice().to_string()),
            ("missing", self.missing().to_string()),
            ("Merkle root", if self.merkle_root_ok() { "matches" } else { "does not match" }.to_string()),
            ("time", format!("{:.2} s", self.seconds)),
            ("network", self.network.name().to_string()),
        ];
        for (name, value) in rows {
            println!("  {name:<32}{value}");
        }
        println!("{}", self.sentence());
    }

    fn sentence(&self) -> String {
        if self.is_proof() {
            return "Every transaction arrived once at each listener, and the Merkle root of what was delivered is \
                    the one in the block's header."
                .into();
        }
        if !self.whole_block {
            return format!(
                "{} missing, {} delivered twice; fewer transactions than the block holds were sent, so its Merkle \
                 root cannot be proved (leave --count out, or make it larger).",
                self.missing(),
                self.twice()
            );
        }
        format!(
            "FAILED: {} missing, {} delivered twice, Merkle root {}.",
            self.missing(),
            self.twice(),
            if self.merkle_root_ok() { "matches" } else { "does not match" }
        )
    }
}
