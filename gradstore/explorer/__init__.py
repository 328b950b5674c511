"""The local page: the charts of the report, SQL, and every sample. The only room with a web library."""
