"""How fast is this machine: ``worldrl bench``."""
