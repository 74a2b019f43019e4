"""Events: their contract and bytes, Kafka in and out, the durable archive, online user profiles."""
