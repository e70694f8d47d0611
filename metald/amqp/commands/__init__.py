"""Commands in: what producers ask for by messages, done once each, in the order of each node.

A message's way: `message` reads it, `intake` makes it durable and acknowledges it, `lanes` carries it out, one node's
commands one after the other, through the same door as HTTP (`door`), and `replies` tells its sender. `ledger` is the
durable side of all of them.
"""
