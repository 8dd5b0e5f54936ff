"""Pictures and words about results: preview, STAC item, HTML report."""
