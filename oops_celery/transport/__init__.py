"""RabbitMQ through kombu and py-amqp, with a limit on every wait."""
