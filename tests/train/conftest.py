from tests.dry_fixtures import dry_folder, dry_sounds, rooms

__all__ = ["dry_folder", "dry_sounds", "rooms"]
