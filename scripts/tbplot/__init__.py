"""Reading result files (results/SCHEMA.md) and drawing them."""
