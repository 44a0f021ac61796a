"""What the sessions are for, on photographs: ten persons enrolled from seven frames each, and verified from one."""
