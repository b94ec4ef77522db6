"""How fast is it here: ``worldrl bench``."""
