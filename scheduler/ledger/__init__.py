"""The ledger of demand-response events: what was asked, answered, withdrawn and delivered."""
