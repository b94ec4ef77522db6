"""Every statement of three papers' theory as a computation: ``worldrl studies theory``."""
