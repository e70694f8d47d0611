"""The message broker: events out, commands in. Nothing of it is loaded while `amqp.url` is empty."""
