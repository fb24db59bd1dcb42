"""What a query generator learns from: an expert writes searches, a judge says what they found is worth (HeteroRAG, MQG)."""
