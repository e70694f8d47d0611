"""metald beside a real Ironic, in one run, on one machine. `make beside` runs every program here."""
