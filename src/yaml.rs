pub fn from_str<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> { serde_yaml::from_str(text).map_err(|e| e.to_string()) }
