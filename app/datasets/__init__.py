"""Other systems' files of templates: read as if an enemy had written them, and written so that those systems read them."""
