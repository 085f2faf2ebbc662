"""From a dataset folder to cases, prompts and patient-level splits."""
