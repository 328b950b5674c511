"""Pictures. The only room with Altair; nothing here is fetched from anywhere."""
