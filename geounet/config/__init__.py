"""Job files and model cards: pydantic models, YAML loading, JSON schema. Imports neither torch nor GDAL."""
