"""The Ironic Python Agent in a ramdisk: its API (`client`), its commands followed to their end (`commands`), and the deploy
interface `direct` that drives it (`deploy`)."""
