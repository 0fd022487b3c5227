"""Networks, and how they read tokens: loading, adapters, policies, reward models, token trees."""
